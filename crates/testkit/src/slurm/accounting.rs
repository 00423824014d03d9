//! The database of jobs: `slurmdbd` with a MariaDB of its own.

use std::fs;

use nix::unistd::geteuid;

use super::{COMMAND_LIMIT, Place, conf};
use crate::process::{ChildGuard, output};

/// What a database costs that nobody keeps: no waiting for the disk, small files.
const OF_NO_VALUE: [&str; 4] = [
    "--innodb-flush-method=nosync",
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=16M",
    "--skip-name-resolve",
];

/// Both daemons; the database is dropped last.
#[derive(Debug)]
pub(super) struct Accounting {
    pub(super) slurmdbd: ChildGuard,
    _mariadbd: ChildGuard,
}

impl Accounting {
    pub(super) fn start(place: &Place) -> Result<Self, String> {
        let data = format!("--datadir={}", place.path("mariadb").display());
        let socket = place.path("mariadb.sock");
        // Servers clean up in a directory as if it were theirs alone.
        let scratch = place.path("mariadb-tmp");
        fs::create_dir(&scratch).expect("make a directory");
        let scratch = format!("--tmpdir={}", scratch.display());
        // It refuses to be root unless it is told to.
        let user = geteuid().is_root().then_some("--user=root");

        let mut install = place.program("mariadb-install-db");
        install
            .args(["--no-defaults", &data, &scratch, "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .args(OF_NO_VALUE)
            .args(user);
        let said = output(&mut install, COMMAND_LIMIT);
        if !said.status.success() {
            return Err(format!(
                "mariadb-install-db fails: {}\n{}",
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr)
            ));
        }
        let mut mariadbd = place.program("mariadbd");
        mariadbd
            .args(["--no-defaults", &data, &scratch, "--skip-networking"])
            .arg(format!("--socket={}", socket.display()))
            .arg(format!(
                "--pid-file={}",
                place.path("mariadb.pid").display()
            ))
            .args(OF_NO_VALUE)
            .args(user);
        let mariadbd = place.start(&mut mariadbd, "mariadbd", || socket.exists())?;

        let conf = slurmdbd_conf(place);
        conf::hidden(&place.path("slurmdbd.conf"), conf.as_bytes());
        let mut slurmdbd = place.command("slurmdbd");
        // Its configuration has no word for the socket.
        slurmdbd.arg("-D").env("MYSQL_UNIX_PORT", &socket);
        let slurmdbd = place.start(&mut slurmdbd, "slurmdbd", || {
            let mut list = place.command("sacctmgr");
            list.args(["--noheader", "list", "cluster"]);
            output(&mut list, COMMAND_LIMIT).status.success()
        })?;
        Ok(Self {
            slurmdbd,
            _mariadbd: mariadbd,
        })
    }
}

fn slurmdbd_conf(place: &Place) -> String {
    let dir = place.dir.path().display();
    let (host, user, port) = (conf::host(), conf::user(), conf::slurmdbd_port(place));
    format!(
        "\
AuthType=auth/munge
AuthInfo=socket={dir}/munge/s
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={dir}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"
    )
}
