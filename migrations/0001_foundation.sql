-- Everything imprint keeps lives in one schema.
create schema imprint;

-- Experiments and runs: written by the orchestrator.

create table imprint.experiment (
    experiment_id int4 generated always as identity primary key,
    name text not null unique,
    toml text not null,
    created_at timestamptz not null default now()
);
comment on table imprint.experiment is 'A submitted experiment file: one matrix of runs.';
comment on column imprint.experiment.name is 'The name given in the file.';
comment on column imprint.experiment.toml is 'The file as it was last submitted.';

create table imprint.submission (
    request_id text primary key,
    experiment_id int4 not null references imprint.experiment on delete cascade,
    response bytea not null,
    created_at timestamptz not null default now()
);
comment on table imprint.submission is 'Answers already given, so that a repeated request changes nothing.';
comment on column imprint.submission.request_id is 'Chosen by the client.';
comment on column imprint.submission.response is 'The encoded SubmitExperimentResponse.';

-- A run's prompts and targets; runs that read the same probes share a set.
create table imprint.probe_set (
    probe_set_id int4 generated always as identity primary key,
    sha256 text not null unique,
    n_probes int4 not null
);
comment on table imprint.probe_set is 'The probes that a run reads, in the order of the values of its readings.';
comment on column imprint.probe_set.sha256 is 'Hash of all probes and their token counts.';

create table imprint.probe (
    probe_set_id int4 not null references imprint.probe_set on delete cascade,
    probe int4 not null,
    fact int4 not null,
    depth int2 not null check (depth between 0 and 2),
    ordinal int2 not null,
    swap_fact int4,
    prompt text not null,
    target text not null,
    n_target_tokens int4 not null check (n_target_tokens > 0),
    n_full_tokens int4 not null check (n_full_tokens > 0),
    primary key (probe_set_id, probe)
);
comment on table imprint.probe is 'A prompt and a target whose log-probability is read.';
comment on column imprint.probe.probe is 'Position of its value in every reading.';
comment on column imprint.probe.fact is 'Index in the facts file of the fact whose target is read.';
comment on column imprint.probe.depth is '0 mem, 1 gen, 2 hard_gen.';
comment on column imprint.probe.ordinal is 'Index within its fact and depth.';
comment on column imprint.probe.swap_fact is 'For a swap control: the fact after whose subject the target is read.';
comment on column imprint.probe.n_target_tokens is 'Tokens of the target span.';
comment on column imprint.probe.n_full_tokens is 'Tokens of the full span: every token but the first.';

create table imprint.run (
    run_id int4 generated always as identity primary key,
    hash text not null unique,
    label text not null unique,
    spec jsonb not null,
    probe_set_id int4 not null references imprint.probe_set,
    n_updates int4 not null check (n_updates > 0),
    reading_steps int4[] not null,
    parent_run_id int4 references imprint.run,
    parent_step int4,
    state text not null default 'queued'
        check (state in ('queued', 'running', 'delivering', 'complete', 'failed', 'cancelled')),
    reason text not null default '',
    cancel_requested bool not null default false,
    -- Attempts that ended without progress since the last one that made some.
    barren_attempts int4 not null default 0,
    furthest_reading int4 not null default 0,
    not_before timestamptz not null default now(),
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    check ((parent_run_id is null) = (parent_step is null))
);
create index run_open on imprint.run (state) where state in ('queued', 'running', 'delivering');
comment on table imprint.run is 'Checkpoint × scenario × batch size × seed.';
comment on column imprint.run.hash is 'SHA-256 of the canonical configuration: the identity of the run.';
comment on column imprint.run.label is 'experiment/checkpoint-scenario-bBATCH-sSEED of the experiment that asked for it first.';
comment on column imprint.run.spec is 'The complete configuration.';
comment on column imprint.run.n_updates is 'Optimizer updates; readings run from step 0 to this step.';
comment on column imprint.run.reading_steps is 'The steps at which all probes are read; a reading index is a position in this list.';
comment on column imprint.run.parent_run_id is 'The run from whose saved state this one starts.';
comment on column imprint.run.reason is 'Why it failed, or why it waits.';
comment on column imprint.run.barren_attempts is 'Consecutive attempts that ended before any new state was saved or reading stored.';
comment on column imprint.run.furthest_reading is 'Most readings ever stored when an attempt ended; an attempt that gets no further is barren.';
comment on column imprint.run.not_before is 'Not started again before this time.';

create table imprint.experiment_run (
    experiment_id int4 not null references imprint.experiment on delete cascade,
    run_id int4 not null references imprint.run on delete cascade,
    label text not null unique,
    wanted bool not null default true,
    primary key (experiment_id, run_id)
);
comment on table imprint.experiment_run is 'Which experiment wants which run; experiments share runs.';
comment on column imprint.experiment_run.wanted is 'False once the experiment cancelled it; a run that nobody wants is ended.';
comment on column imprint.experiment_run.label is 'The name of the run in this experiment.';

create table imprint.run_arm (
    run_id int4 not null references imprint.run on delete cascade,
    arm int2 not null,
    name text not null,
    primary key (run_id, arm)
);
comment on table imprint.run_arm is 'The arms of a run''s scenario; arm -1 is held_out, the null control.';

create table imprint.run_fact (
    run_id int4 not null references imprint.run on delete cascade,
    fact int4 not null,
    arm int2 not null,
    primary key (run_id, fact),
    foreign key (run_id, arm) references imprint.run_arm on delete cascade
);
comment on table imprint.run_fact is 'In which arm a run shows each fact.';

create table imprint.injection (
    run_id int4 not null references imprint.run on delete cascade,
    step int4 not null,
    fact int4 not null,
    exposure int4 not null,
    paraphrase int4,
    primary key (run_id, fact, exposure)
);
comment on table imprint.injection is 'Every placing of a fact in a training batch: the batch of update `step`.';
comment on column imprint.injection.exposure is '1 for the first time the fact is shown.';
comment on column imprint.injection.paraphrase is 'Index of the paraphrase shown; null for the passage itself.';

create table imprint.attempt (
    run_id int4 not null references imprint.run on delete cascade,
    attempt int4 not null,
    host text not null,
    pid int4 not null,
    device text not null,
    machine text not null,
    began_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    lease_until timestamptz not null,
    step int4 not null default 0,
    steps_per_second float4 not null default 0,
    undelivered_since_step int4,
    ended_at timestamptz,
    outcome text check (outcome in ('finished', 'stopped', 'failed', 'lost', 'superseded')),
    reason text not null default '',
    primary key (run_id, attempt),
    check ((ended_at is null) = (outcome is null))
);
comment on table imprint.attempt is 'One execution of a run; its number is the fence.';
comment on column imprint.attempt.machine is 'Processor features, threads and device: equal machines give equal bits.';
comment on column imprint.attempt.lease_until is 'Taken for dead when no heartbeat came by then.';
comment on column imprint.attempt.step is 'Updates made, by its last word.';
comment on column imprint.attempt.undelivered_since_step is 'First step whose reading the trainer could not deliver yet.';

create table imprint.saved_state (
    run_id int4 not null references imprint.run on delete cascade,
    step int4 not null,
    attempt int4 not null,
    path text not null,
    sha256 text not null,
    global_step int8 not null,
    keep bool not null,
    saved_at timestamptz not null default now(),
    primary key (run_id, step, attempt)
);
comment on table imprint.saved_state is 'States a run can be resumed from: the parameters before update `step`.';
comment on column imprint.saved_state.keep is 'Kept for good, for other runs to start from.';

-- Readings: written by the metrics service.

create table imprint.ingest_head (
    run_id int4 primary key references imprint.run on delete cascade,
    attempt int4 not null,
    next_reading int4 not null,
    next_update int4 not null
) with (fillfactor = 50);
comment on table imprint.ingest_head is 'Where a run''s stream stands, and the attempt that may write it.';
comment on column imprint.ingest_head.next_reading is 'Index of the next reading; all below are stored.';
comment on column imprint.ingest_head.next_update is 'Step of the next update; all below are stored.';

create table imprint.segment (
    run_id int4 not null references imprint.run on delete cascade,
    attempt int4 not null,
    first_step int4 not null,
    first_reading int4 not null,
    machine text not null,
    same_machine bool not null,
    opened_at timestamptz not null default now(),
    primary key (run_id, attempt)
);
comment on table imprint.segment is 'From which step on an attempt went on measuring a run.';
comment on column imprint.segment.first_step is 'The first step that it delivered: where it resumed, or before that what earlier attempts could not deliver.';
comment on column imprint.segment.same_machine is 'Whether its machine equals that of the segment before; only then are bits equal too.';

create table imprint.step_reading (
    run_id int4 not null,
    reading int4 not null,
    step int4 not null,
    attempt int4 not null,
    first_sum_nats float4[] not null,
    target_sum_nats float4[] not null,
    full_sum_nats float4[] not null,
    stored_at timestamptz not null default now(),
    primary key (run_id, reading)
) partition by range (run_id);
comment on table imprint.step_reading is 'The truth: all probes'' summed log-probabilities at one step, one row a reading.';
comment on column imprint.step_reading.reading is 'Position in run.reading_steps.';
comment on column imprint.step_reading.step is 'Read on the parameters before update `step`.';
comment on column imprint.step_reading.attempt is 'The attempt that measured it.';
comment on column imprint.step_reading.first_sum_nats is 'Log-probability of the first target token, nats, one value a probe.';
comment on column imprint.step_reading.target_sum_nats is 'Summed log-probability of the target''s tokens, nats.';
comment on column imprint.step_reading.full_sum_nats is 'Summed log-probability of every token but the first, nats.';

create table imprint.superseded_reading (
    run_id int4 not null references imprint.run on delete cascade,
    reading int4 not null,
    step int4 not null,
    attempt int4 not null,
    first_sum_nats float4[] not null,
    target_sum_nats float4[] not null,
    full_sum_nats float4[] not null,
    stored_at timestamptz not null,
    superseded_by int4 not null,
    superseded_at timestamptz not null default now(),
    primary key (run_id, reading, superseded_by)
);
comment on table imprint.superseded_reading is 'Readings that a later attempt measured again; never deleted.';

create table imprint.update_stats (
    run_id int4 not null,
    step int4 not null,
    attempt int4 not null,
    loss_nats float8 not null,
    learning_rate float8 not null,
    grad_norm float8 not null,
    update_norm float8 not null,
    n_tokens int4 not null,
    n_injected_tokens int4 not null,
    duration_ms float4 not null,
    primary key (run_id, step)
) partition by range (run_id);
comment on table imprint.update_stats is 'One optimizer update: update t maps the parameters of reading t to those of t+1.';
comment on column imprint.update_stats.loss_nats is 'Mean cross-entropy over all predicted tokens of the global batch.';
comment on column imprint.update_stats.grad_norm is 'Global L2 norm of the gradient before clipping.';
comment on column imprint.update_stats.update_norm is 'Global L2 norm of the change of the parameters.';

create table imprint.superseded_update (
    run_id int4 not null references imprint.run on delete cascade,
    step int4 not null,
    attempt int4 not null,
    loss_nats float8 not null,
    learning_rate float8 not null,
    grad_norm float8 not null,
    update_norm float8 not null,
    n_tokens int4 not null,
    n_injected_tokens int4 not null,
    duration_ms float4 not null,
    superseded_by int4 not null,
    superseded_at timestamptz not null default now(),
    primary key (run_id, step, superseded_by)
);
comment on table imprint.superseded_update is 'Update statistics that a later attempt measured again; never deleted.';

-- Derived, in the transaction of the reading: means over probes of ℓ.
create table imprint.step_mean (
    run_id int4 not null,
    arm int2 not null,
    depth int2 not null,
    swap bool not null,
    reading int4 not null,
    step int4 not null,
    n_probes int4 not null,
    first_mean_nats float8 not null,
    target_mean_nats float8 not null,
    full_mean_nats float8 not null,
    primary key (run_id, arm, depth, swap, reading)
) partition by range (run_id);
comment on table imprint.step_mean is 'Derived: per arm, depth and step the mean over probes of the mean log-probability per token.';

-- Derived, when 64 readings are complete: one probe's values side by side.
create table imprint.probe_chunk (
    run_id int4 not null,
    probe int4 not null,
    chunk int4 not null,
    first_sum_nats float4[] not null,
    target_sum_nats float4[] not null,
    full_sum_nats float4[] not null,
    primary key (run_id, probe, chunk)
) partition by range (run_id);
comment on table imprint.probe_chunk is 'Derived: 64 consecutive readings of one probe (reading = 64·chunk + position).';

create table imprint.chunk_head (
    run_id int4 primary key references imprint.run on delete cascade,
    next_chunk int4 not null default 0
);
comment on table imprint.chunk_head is 'Chunks below this one are made.';

-- Runs are partitioned by 128: ten relations a run would be too many for thousands of runs.
create function imprint.ensure_partitions(of_run int4) returns void
language plpgsql as $$
declare
    first int4 := of_run - of_run % 128;
    parent text;
    part text;
begin
    foreach parent in array array['step_reading', 'update_stats', 'step_mean', 'probe_chunk'] loop
        part := format('%s_%s', parent, first);
        -- Not by to_regclass: after waiting for the lock it would answer from before it.
        if not exists (select from pg_class
            where relname = part and relnamespace = 'imprint'::regnamespace) then
            -- One creator at a time; the others find the table there.
            perform pg_advisory_xact_lock(hashtext('imprint.ensure_partitions'));
            if not exists (select from pg_class
                where relname = part and relnamespace = 'imprint'::regnamespace) then
                -- Attaching, unlike creating as a partition, does not wait for the table's users.
                execute format(
                    'create table imprint.%I (like imprint.%I including all)', part, parent);
                execute format(
                    'alter table imprint.%I attach partition imprint.%I for values from (%s) to (%s)',
                    parent, part, first, first + 128);
                if parent = 'step_reading' then
                    -- Arrays of noise do not compress: keep them out of line and as they are.
                    execute format(
                        'alter table imprint.%I alter first_sum_nats set storage external, '
                        'alter target_sum_nats set storage external, '
                        'alter full_sum_nats set storage external', part);
                end if;
                if parent = 'probe_chunk' then
                    execute format('alter table imprint.%I set (toast_tuple_target = 8160)', part);
                end if;
            end if;
        end if;
    end loop;
end $$;
comment on function imprint.ensure_partitions is 'Makes the partitions that hold a run''s readings.';

-- For people: one row a reading of a probe.

create view imprint.reading as
select
    r.run_id, e.label as run, s.reading, s.step, p.probe, p.fact, a.name as arm,
    (array['mem', 'gen', 'hard_gen'])[p.depth + 1] as depth,
    p.ordinal, p.swap_fact is not null as swap,
    u.first_sum_nats as first_mean_nats,
    u.target_sum_nats / p.n_target_tokens as target_mean_nats,
    u.full_sum_nats / p.n_full_tokens as full_mean_nats,
    u.first_sum_nats, u.target_sum_nats, u.full_sum_nats,
    s.attempt
from imprint.run r
join imprint.experiment_run e using (run_id)
join imprint.step_reading s using (run_id)
cross join lateral unnest(s.first_sum_nats, s.target_sum_nats, s.full_sum_nats) with ordinality
    as u(first_sum_nats, target_sum_nats, full_sum_nats, position)
join imprint.probe p on p.probe_set_id = r.probe_set_id and p.probe = u.position - 1
left join imprint.run_fact f on f.run_id = r.run_id and f.fact = p.fact
left join imprint.run_arm a on a.run_id = f.run_id and a.arm = f.arm;
comment on view imprint.reading is 'One row per (run, step, probe): its log-probability ℓ, nats. Name a run (and a step or probe) in the where clause.';
comment on column imprint.reading.run is 'experiment/cell label.';
comment on column imprint.reading.step is 'Read on the parameters before update `step`; an injection at step t first shows at t+1.';
comment on column imprint.reading.arm is 'How the fact is shown in this run; held_out is the null control.';
comment on column imprint.reading.depth is 'mem, gen or hard_gen.';
comment on column imprint.reading.swap is 'Whether the target is read after another fact''s subject (the swap control).';
comment on column imprint.reading.target_mean_nats is 'ℓ over the target span: mean log-probability per token, the paper''s headline.';
comment on column imprint.reading.first_mean_nats is 'ℓ of the first target token.';
comment on column imprint.reading.full_mean_nats is 'ℓ over every token of the probe but the first.';
comment on column imprint.reading.attempt is 'The attempt that measured it.';

create function imprint.probe_curve(of_run int4, of_probe int4)
returns table (reading int4, step int4,
    first_sum_nats float4, target_sum_nats float4, full_sum_nats float4)
language sql stable as $$
    select v.reading, r.reading_steps[v.reading + 1],
        v.first_sum_nats, v.target_sum_nats, v.full_sum_nats
    from imprint.run r
    cross join lateral (
        -- Whole chunks, then what came after the last of them.
        select (64 * c.chunk + u.position - 1)::int4,
            u.first_sum_nats, u.target_sum_nats, u.full_sum_nats
        from imprint.probe_chunk c
        cross join lateral unnest(c.first_sum_nats, c.target_sum_nats, c.full_sum_nats)
            with ordinality as u(first_sum_nats, target_sum_nats, full_sum_nats, position)
        where c.run_id = of_run and c.probe = of_probe
        union all
        select s.reading, s.first_sum_nats[of_probe + 1], s.target_sum_nats[of_probe + 1],
            s.full_sum_nats[of_probe + 1]
        from imprint.step_reading s
        where s.run_id = of_run and s.reading >= 64 * coalesce(
            (select next_chunk from imprint.chunk_head h where h.run_id = of_run), 0)
    ) as v(reading, first_sum_nats, target_sum_nats, full_sum_nats)
    where r.run_id = of_run
    order by v.reading
$$;
comment on function imprint.probe_curve is 'All readings of one probe, sums in nats; much quicker than imprint.reading for one probe of a long run.';

create view imprint.mean_curve as
select m.run_id, e.label as run, a.name as arm,
    (array['mem', 'gen', 'hard_gen'])[m.depth + 1] as depth, m.swap, m.step, m.n_probes,
    m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
from imprint.step_mean m
join imprint.experiment_run e using (run_id)
join imprint.run_arm a on a.run_id = m.run_id and a.arm = m.arm;
comment on view imprint.mean_curve is 'Mean ℓ over probes per (run, arm, depth, step), nats.';

create view imprint.step_stats as
select u.run_id, e.label as run, u.step, u.loss_nats, u.learning_rate, u.grad_norm, u.update_norm,
    u.n_tokens, u.n_injected_tokens, u.duration_ms,
    u.n_tokens / nullif(u.duration_ms / 1000, 0) as tokens_per_second, u.attempt
from imprint.update_stats u
join imprint.experiment_run e using (run_id);
comment on view imprint.step_stats is 'One row per (run, update).';
comment on column imprint.step_stats.loss_nats is 'Mean cross-entropy over all predicted tokens of the batch.';

create view imprint.run_summary as
select r.run_id, e.label as run, x.name as experiment, r.state, r.reason,
    r.spec #>> '{identity,scenario_name}' as scenario,
    (r.spec #>> '{identity,batch_size}')::int4 as batch_size,
    (r.spec #>> '{identity,seed}')::int8 as seed,
    r.n_updates, cardinality(r.reading_steps) as readings_expected,
    coalesce(h.next_reading, 0) as readings_stored, coalesce(h.next_update, 0) as updates_stored,
    coalesce((select max(attempt) from imprint.attempt t where t.run_id = r.run_id), 0) as attempts,
    r.created_at, r.started_at, r.finished_at
from imprint.run r
join imprint.experiment_run e using (run_id)
join imprint.experiment x using (experiment_id)
left join imprint.ingest_head h using (run_id);
comment on view imprint.run_summary is 'One row per run of an experiment, with its progress.';
