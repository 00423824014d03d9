//! What a cluster's daemons are told.

use std::fs;
use std::io::Read as _;
use std::net::ToSocketAddrs as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::unistd::{User, geteuid, gethostname};

use super::Place;

/// The controller's and the database's.
pub(super) const N_PORTS_BESIDE_NODES: usize = 2;

/// Bytes of munge's key; 32 are the least that it takes.
const KEY_BYTES: usize = 128;

/// The port of `slurmdbd`.
pub(super) fn slurmdbd_port(place: &Place) -> u16 {
    place.ports.nth(1)
}

/// This machine's name, without its domain, as Slurm takes it.
pub(super) fn host() -> String {
    let name = gethostname().expect("know this machine's name");
    let name = name.to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Who runs the daemons.
pub(super) fn user() -> String {
    let uid = geteuid();
    let user = User::from_uid(uid).expect("look a user up");
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Makes the directories and files that the daemons start from.
pub(super) fn write(place: &Place) {
    let make = |name: &str, mode: u32| {
        let path = place.path(name);
        fs::create_dir(&path).expect("make a directory");
        set_mode(&path, mode);
    };
    make("munge", 0o711);
    make("log", 0o755);
    make("controller", 0o755);
    (1..=place.options.n_nodes).for_each(|k| make(&format!("node{k}"), 0o755));
    let mut key = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .expect("make a key");
    hidden(&place.path("munge/key"), &key);
    fs::write(place.path("slurm.conf"), slurm_conf(place)).expect("write slurm.conf");
    // A GPU needs a device, and these two are everywhere.
    let gres = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n";
    fs::write(place.path("gres.conf"), gres).expect("write gres.conf");
}

/// Writes a file for its owner only.
pub(super) fn hidden(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("write a file");
    set_mode(path, 0o600);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}

fn slurm_conf(place: &Place) -> String {
    let options = &place.options;
    let (host, user) = (host(), user());
    let dir = place.dir.path().display();
    let (controller_port, dbd_port) = (place.ports.nth(0), slurmdbd_port(place));
    let first = place.ports.nth(N_PORTS_BESIDE_NODES);
    let (n, last) = (options.n_nodes, first + options.n_nodes as u16 - 1);
    let accounting = match options.accounting {
        false => "AccountingStorageType=accounting_storage/none".to_owned(),
        true => format!(
            "AccountingStorageType=accounting_storage/slurmdbd\n\
             AccountingStorageHost=127.0.0.1\n\
             AccountingStoragePort={dbd_port}\n\
             AccountingStoragePass={dir}/munge/s\n\
             AccountingStoreFlags=job_comment"
        ),
    };
    let requeue_exit = match options.requeue_exit {
        true => "RequeueExit=85",
        false => "",
    };
    let signal = match options.preempt_signal {
        true => "SlurmctldParameters=preempt_send_user_signal",
        false => "",
    };
    // Daemons listen at the address of the machine's name, where that has one, and else at all.
    let listening = match (host.as_str(), 0).to_socket_addrs() {
        Ok(_) => "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
        Err(_) => "",
    };
    let remembers = options.remembers.as_secs();
    let lines = options.lines.join("\n");
    // Without `cred_expire` a requeued job waits two minutes.
    format!(
        "\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={dir}/munge/s,cred_expire=5
CredType=cred/munge
{listening}
SlurmctldPort={controller_port}
StateSaveLocation={dir}/controller
SlurmdSpoolDir={dir}/%n
SlurmctldPidFile={dir}/controller.pid
SlurmdPidFile={dir}/%n.pid
SlurmdLogFile={dir}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_continue
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge={remembers}
SlurmctldTimeout=10
SlurmdTimeout=10
MailProg=/bin/true
NodeName=node[1-{n}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=8 Boards=1 \
SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
{requeue_exit}
{signal}
{lines}
"
    )
}
