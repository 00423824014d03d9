-- Runs across machines: who leads, what was asked of which executor, and what happened to a run.

create table imprint.leader (
    sole bool primary key default true check (sole),
    number int8 not null default 0,
    holder text not null default '',
    lead_until timestamptz not null default '-infinity'
);
insert into imprint.leader default values;
comment on table imprint.leader is 'The orchestrator that schedules; of several one leads, and another takes over.';
comment on column imprint.leader.sole is 'True in the only row.';
comment on column imprint.leader.number is 'Counts leaders: what a leader changes, it changes under its number.';
comment on column imprint.leader.holder is 'Host and process.';
comment on column imprint.leader.lead_until is 'Then another may lead, unless it was renewed.';

alter table imprint.run add column priority int4 not null default 0;
alter table imprint.run add column fruitless_stops int4 not null default 0;
comment on column imprint.run.priority is 'Of waiting runs the highest starts first.';
comment on column imprint.run.fruitless_stops is 'Consecutive attempts that were asked to stop before any new state was saved or reading stored.';

create table imprint.job (
    run_id int4 not null references imprint.run on delete cascade,
    job int4 not null,
    executor text not null,
    slot int4,
    request_id text not null unique,
    external_id text,
    created_at timestamptz not null default now(),
    asked_at timestamptz not null default now(),
    n_asked int4 not null default 1,
    alive_at timestamptz,
    stop_asked_at timestamptz,
    kill_asked_at timestamptz,
    ended_at timestamptz,
    outcome text not null default '',
    primary key (run_id, job)
);
create unique index job_open on imprint.job (run_id) where ended_at is null;
comment on table imprint.job is 'What an executor was asked to start; written before it is asked, so that nothing is asked twice. A run has one open job at most.';
comment on column imprint.job.run_id is 'Run, in imprint.run.';
comment on column imprint.job.job is '1 for the run''s first.';
comment on column imprint.job.executor is 'Its name in the site file.';
comment on column imprint.job.slot is 'The place on this machine that it takes; null where the executor has a queue of its own.';
comment on column imprint.job.request_id is 'The executor finds the job by it when its answer got lost.';
comment on column imprint.job.external_id is 'What the executor calls it: host:process, or a number of Slurm''s; null until that is known.';
comment on column imprint.job.created_at is 'When it was first asked for.';
comment on column imprint.job.asked_at is 'When the executor was asked last.';
comment on column imprint.job.n_asked is 'How often it was.';
comment on column imprint.job.alive_at is 'Since when its process lives; null while it waits in a queue.';
comment on column imprint.job.stop_asked_at is 'When it was first asked to save and end.';
comment on column imprint.job.kill_asked_at is 'When it was last asked to end at once.';
comment on column imprint.job.ended_at is 'When it was known to have ended; null until then.';
comment on column imprint.job.outcome is 'How it ended, in words that follow "the trainer".';

alter table imprint.attempt add column job int4;
alter table imprint.attempt add column record jsonb;
comment on column imprint.attempt.job is 'The job whose process made it; null where somebody started the trainer by hand.';
comment on column imprint.attempt.record is 'What is needed to do it again: program, versions, device, driver.';

-- The states of a run and how they follow each other: docs/runs.md draws them.

create table imprint.run_transition (
    from_state text not null,
    to_state text not null,
    primary key (from_state, to_state)
);
insert into imprint.run_transition values
    ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
    ('running', 'queued'), ('running', 'delivering'), ('running', 'failed'), ('running', 'cancelled'),
    ('delivering', 'running'), ('delivering', 'complete'), ('delivering', 'cancelled'),
    ('delivering', 'queued'), ('delivering', 'failed'),
    ('failed', 'queued'), ('cancelled', 'queued'),
    -- An imported run counts as failed until all of it is there.
    ('failed', 'complete');
comment on table imprint.run_transition is 'Which state of a run may follow which; every other change is refused.';
comment on column imprint.run_transition.from_state is 'A state of a run.';
comment on column imprint.run_transition.to_state is 'One that may follow it.';

create table imprint.event (
    run_id int4 not null references imprint.run on delete cascade,
    event int4 not null,
    happened_at timestamptz not null default clock_timestamp(),
    kind text not null,
    attempt int4,
    job int4,
    detail text not null default '',
    primary key (run_id, event)
);
comment on table imprint.event is 'What happened to a run. Triggers write it, so that no change of a state is left out; other resources are noted by who gives them.';
comment on column imprint.event.run_id is 'Run, in imprint.run.';
comment on column imprint.event.event is 'Counted from 1 within the run, in the order in which they happened.';
comment on column imprint.event.happened_at is 'When it was written, by the database''s clock.';
comment on column imprint.event.kind is 'A state of the run that began; or attempt_began, attempt_ended, job_asked, job_found, job_alive, job_ended, stop_asked, kill_asked, cancel_requested, priority, resources.';
comment on column imprint.event.attempt is 'The attempt that it happened to; null where it happened to none.';
comment on column imprint.event.job is 'The job that it happened to; null where it happened to none.';
comment on column imprint.event.detail is 'What there is to say of it: a reason, a place, an outcome.';

create function imprint.note(run int4, what text, of_attempt int4, of_job int4, words text)
returns void language sql as $$
    insert into imprint.event (run_id, event, kind, attempt, job, detail)
    select run, coalesce(max(event), 0) + 1, what, of_attempt, of_job, words
    from imprint.event where run_id = run
$$;
comment on function imprint.note is 'Internal: adds to the events of a run, whose row the caller holds.';

create function imprint.on_runs() returns trigger language plpgsql
-- The plan is made once, at the first statement's number of rows, and serves for all.
set enable_nestloop = off set jit = off as $$
declare
    refused record;
begin
    select n.run_id, o.state as was, n.state as wanted into refused
    from changed n join unchanged o using (run_id)
    where n.state <> o.state and not exists (select from imprint.run_transition t
        where (t.from_state, t.to_state) = (o.state, n.state))
    limit 1;
    if found then
        raise exception 'run % cannot go from % to %', refused.run_id, refused.was, refused.wanted
            using errcode = 'check_violation', constraint = 'run_transition';
    end if;
    insert into imprint.event (run_id, event, kind, detail)
    select e.run_id,
        coalesce((select max(last.event) from imprint.event last where last.run_id = e.run_id), 0)
            + row_number() over (partition by e.run_id order by e.nth),
        e.kind, e.detail
    from (
        select n.run_id, what.*
        from changed n join unchanged o using (run_id)
        cross join lateral (values
            (1, n.state <> o.state, n.state, n.reason),
            (2, n.cancel_requested and not o.cancel_requested, 'cancel_requested', ''),
            (3, n.priority <> o.priority, 'priority', n.priority::text)
        ) as what(nth, happened, kind, detail)
        where what.happened
    ) e;
    return null;
end $$;
create function imprint.on_new_runs() returns trigger language plpgsql as $$
begin
    -- One that comes from an archive or a log brings its events along, or has none.
    insert into imprint.event (run_id, event, kind, detail)
    select run_id, 1, state, label from added where state = 'queued';
    return null;
end $$;
-- For all at once: thousands of runs come, or are cancelled, in one statement.
create trigger runs_are_new after insert on imprint.run referencing new table as added
    for each statement execute function imprint.on_new_runs();
create trigger runs_change after update on imprint.run
    referencing old table as unchanged new table as changed
    for each statement execute function imprint.on_runs();

create function imprint.on_attempt() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        perform imprint.note(new.run_id, 'attempt_began', new.attempt, new.job,
                             'process ' || new.pid || ' on ' || new.host);
    else
        perform imprint.note(new.run_id, 'attempt_ended', new.attempt, new.job,
                             new.outcome || case new.reason when '' then '' else ': ' || new.reason end);
    end if;
    return null;
end $$;
create trigger attempt_begins after insert on imprint.attempt
    for each row when (new.ended_at is null) execute function imprint.on_attempt();
create trigger attempt_ends after update of ended_at on imprint.attempt
    for each row when (old.ended_at is null and new.ended_at is not null)
    execute function imprint.on_attempt();

create function imprint.on_job() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        perform imprint.note(new.run_id, 'job_asked', null, new.job, new.executor);
        return null;
    end if;
    if new.external_id is distinct from old.external_id then
        perform imprint.note(new.run_id, 'job_found', null, new.job, new.external_id);
    end if;
    if new.alive_at is not null and old.alive_at is null then
        perform imprint.note(new.run_id, 'job_alive', null, new.job, '');
    end if;
    if new.stop_asked_at is not null and old.stop_asked_at is null then
        perform imprint.note(new.run_id, 'stop_asked', null, new.job, '');
    end if;
    if new.kill_asked_at is distinct from old.kill_asked_at then
        perform imprint.note(new.run_id, 'kill_asked', null, new.job, '');
    end if;
    if new.n_asked > old.n_asked then
        perform imprint.note(new.run_id, 'job_asked', null, new.job, new.executor || ', once more');
    end if;
    if new.ended_at is not null and old.ended_at is null then
        perform imprint.note(new.run_id, 'job_ended', null, new.job, new.outcome);
    end if;
    return null;
end $$;
create trigger job_is_new after insert on imprint.job
    for each row when (new.ended_at is null) execute function imprint.on_job();
create trigger job_changes after update on imprint.job
    for each row execute function imprint.on_job();

comment on function imprint.on_runs is 'Internal: refuses a state that may not follow, and notes what changed.';
comment on function imprint.on_new_runs is 'Internal: notes that runs were queued.';
comment on function imprint.on_attempt is 'Internal: notes that an attempt began or ended.';
comment on function imprint.on_job is 'Internal: notes what became of a job.';

create view imprint.run_record as
select r.run_id, e.label as run, r.hash, a.attempt, a.record ->> 'version' as version,
    a.record ->> 'revision' as revision, (a.record ->> 'changed')::bool as changed,
    a.record ->> 'binary_sha256' as binary_sha256, a.host, a.device, a.threads, a.machine,
    a.began_at, a.ended_at, a.step, a.outcome, a.record, r.settled, r.spec
from imprint.attempt a
join imprint.run r using (run_id)
join imprint.experiment_run e using (run_id);
comment on view imprint.run_record is 'One row per attempt of a run of an experiment: what is needed to make it again. `imprint reproduce` prints it.';
comment on column imprint.run_record.run_id is 'Run, in imprint.run.';
comment on column imprint.run_record.run is 'Label of the run in an experiment.';
comment on column imprint.run_record.hash is 'SHA-256 of the canonical configuration: the identity of the run.';
comment on column imprint.run_record.attempt is 'Number of the attempt within its run.';
comment on column imprint.run_record.version is 'Version of the trainer; null, as all that it says of itself, where it said nothing.';
comment on column imprint.run_record.revision is 'Commit that the trainer was built from.';
comment on column imprint.run_record.changed is 'Whether what it was built from differed from that commit; null where nobody knows.';
comment on column imprint.run_record.binary_sha256 is 'SHA-256 of the trainer''s executable file.';
comment on column imprint.run_record.host is 'Host of its process.';
comment on column imprint.run_record.device is 'cpu or cuda:N.';
comment on column imprint.run_record.threads is 'Threads of a trainer on the CPU.';
comment on column imprint.run_record.machine is 'Processor and its features.';
comment on column imprint.run_record.began_at is 'When its trainer process called BeginAttempt.';
comment on column imprint.run_record.ended_at is 'When it ended; null while it runs.';
comment on column imprint.run_record.step is 'Updates made, by its last word.';
comment on column imprint.run_record.outcome is 'finished, stopped, failed, lost or superseded; null while it runs.';
comment on column imprint.run_record.record is 'All that the trainer said of itself: program, build, libraries, processor, kernel, driver, GPUs, the batch system''s job.';
comment on column imprint.run_record.settled is 'What the configuration left open and the first attempt settled: schedule, rows of a micro-batch.';
comment on column imprint.run_record.spec is 'The complete configuration, with the SHA-256 of every file.';

-- What tells the runs of an experiment apart.

alter table imprint.experiment_run add column checkpoint text;
comment on column imprint.experiment_run.checkpoint is 'The checkpoint''s name in the experiment.';
create function imprint.checkpoint_in(label text, identity jsonb) returns text
language sql stable parallel safe
return split_part(substr(label, strpos(label, '/') + 1),
    format('-%s-b%s-s%s', identity ->> 'scenario_name', identity ->> 'batch_size',
        identity ->> 'seed'), 1);
comment on function imprint.checkpoint_in is 'Internal: what a label has before scenario, batch size and seed.';
update imprint.experiment_run e set checkpoint = imprint.checkpoint_in(e.label, r.spec -> 'identity')
from imprint.run r where r.run_id = e.run_id;
alter table imprint.experiment_run alter column checkpoint set not null;
-- An older program, an older archive and an imported log do not say it.
create function imprint.on_unnamed_checkpoint() returns trigger language plpgsql as $$
begin
    select imprint.checkpoint_in(new.label, r.spec -> 'identity') into new.checkpoint
    from imprint.run r where r.run_id = new.run_id;
    return new;
end $$;
create trigger checkpoint_is_unnamed before insert on imprint.experiment_run
    for each row when (new.checkpoint is null) execute function imprint.on_unnamed_checkpoint();
comment on function imprint.on_unnamed_checkpoint is 'Internal: takes the checkpoint''s name from the label where nobody says it.';

create or replace view imprint.run_summary as
select r.run_id, e.label as run, x.name as experiment, e.checkpoint,
    i.scenario_name as scenario, i.batch_size, i.seq_len,
    i.batch_size::int8 * i.seq_len as tokens_per_step, i.seed,
    r.state, r.reason, p.n_probes, r.n_updates,
    cardinality(r.reading_steps) as readings_expected,
    coalesce(h.next_reading, 0) as readings_stored, coalesce(h.next_update, 0) as updates_stored,
    coalesce((select max(attempt) from imprint.attempt t where t.run_id = r.run_id), 0) as attempts,
    case (select bool_or((n.attempt, n.next_reading) = (h.attempt, h.next_reading))
            from imprint.analysis n where n.run_id = r.run_id)
        when true then 'current' when false then 'stale' else 'none' end as analysis,
    r.created_at, r.started_at, r.finished_at,
    coalesce(i.repeat, 0) as repeat,
    (r.spec -> 'identity') - array['seed', 'repeat'] as settings
from imprint.run r
join imprint.experiment_run e using (run_id)
join imprint.experiment x using (experiment_id)
join imprint.probe_set p using (probe_set_id)
left join imprint.ingest_head h using (run_id)
cross join lateral jsonb_to_record(r.spec -> 'identity')
    as i(scenario_name text, batch_size int4, seq_len int4, seed numeric, repeat int4);
comment on column imprint.run_summary.repeat is 'Tells runs apart that do the same again; 0 for the first.';
comment on column imprint.run_summary.settings is 'Everything that changes a number of the run but its seed: runs of equal settings may be averaged.';

-- Thousands of runs at once.

-- What a look at all open runs needs of each, without unpacking its configuration.
alter table imprint.run add column executor text
    generated always as (spec #>> '{resources,executor}') stored;
comment on column imprint.run.executor is 'Where its configuration asks to be run; null where the site file says.';
-- Who wants a run.
create unique index experiment_run_of on imprint.experiment_run (run_id, experiment_id);

-- Foreign keys ask for every single row, and thousands of runs bring a million: these ask for all at
-- once.
alter table imprint.run_fact
    drop constraint run_fact_run_id_fkey, drop constraint run_fact_run_id_arm_fkey;
alter table imprint.injection drop constraint injection_run_id_fkey;
create function imprint.on_new_facts() returns trigger language plpgsql as $$
declare
    missing record;
begin
    select * into missing from (select distinct run_id, arm from added) f
    where not exists (select from imprint.run_arm a where (a.run_id, a.arm) = (f.run_id, f.arm))
    limit 1;
    if found then
        raise exception 'run % has no arm % for its facts', missing.run_id, missing.arm
            using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;
create function imprint.on_new_injections() returns trigger language plpgsql as $$
declare
    missing record;
begin
    select * into missing from (select distinct run_id from added) i
    where not exists (select from imprint.run r where r.run_id = i.run_id) limit 1;
    if found then
        raise exception 'there is no run % to inject into', missing.run_id
            using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;
create function imprint.on_gone_runs() returns trigger language plpgsql as $$
begin
    delete from imprint.run_fact f using gone where f.run_id = gone.run_id;
    delete from imprint.injection i using gone where i.run_id = gone.run_id;
    return null;
end $$;
create trigger facts_are_new after insert on imprint.run_fact referencing new table as added
    for each statement execute function imprint.on_new_facts();
create trigger injections_are_new after insert on imprint.injection referencing new table as added
    for each statement execute function imprint.on_new_injections();
create trigger runs_are_gone after delete on imprint.run referencing old table as gone
    for each statement execute function imprint.on_gone_runs();
comment on function imprint.on_new_facts is 'Internal: refuses facts of a run or an arm that is not there.';
comment on function imprint.on_new_injections is 'Internal: refuses injections of a run that is not there.';
comment on function imprint.on_gone_runs is 'Internal: removes the plans of runs that are removed.';

-- Who sees what: the record and the events are for everyone, and services write them.
select imprint.ensure_roles();
