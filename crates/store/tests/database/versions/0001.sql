-- What a database held after migration 0001: two experiments that share a run, a run that starts from
-- another, a resume that superseded, one whole chunk.

insert into imprint.experiment (name, toml) values ('old', 'name = "old"'), ('other', '');
insert into imprint.submission (request_id, experiment_id, response) values ('request', 1, '\x00ff');
insert into imprint.probe_set (sha256, n_probes) values ('probes', 3);
insert into imprint.probe
    (probe_set_id, probe, fact, depth, ordinal, swap_fact, prompt, target, n_target_tokens,
     n_full_tokens)
values
    (1, 0, 0, 0, 0, null, 'Who?', 'Ada', 2, 5),
    (1, 1, 1, 1, 0, null, 'Where?', 'Żywiec', 3, 6),
    (1, 2, 0, 0, 1, 1, 'Who?', 'Bob', 1, 4);

insert into imprint.run
    (hash, label, spec, probe_set_id, n_updates, reading_steps, parent_run_id, parent_step, state,
     started_at, finished_at)
select
    'hash' || n, 'old/run' || n,
    jsonb_build_object(
        'identity', jsonb_build_object(
            'scenario_name', 'once', 'batch_size', 4, 'seed', 9007199254740993),
        'saving', '{"keep": [70]}'::jsonb),
    1, 70, array(select generate_series(0, 70)),
    case when n = 2 then 1 end, case when n = 2 then 70 end,
    case when n = 1 then 'complete' else 'queued' end,
    case when n = 1 then now() end, case when n = 1 then now() end
from generate_series(1, 2) n;
insert into imprint.experiment_run (experiment_id, run_id, label, wanted) values
    (1, 1, 'old/run1', true), (1, 2, 'old/run2', true), (2, 1, 'other/same', false);
insert into imprint.run_arm (run_id, arm, name)
select r, a, n from generate_series(1, 2) r, (values (-1, 'held_out'), (0, 'once')) v (a, n);
insert into imprint.run_fact (run_id, fact, arm)
select r, f, -f from generate_series(1, 2) r, generate_series(0, 1) f;
insert into imprint.injection (run_id, step, fact, exposure, paraphrase) values
    (1, 0, 0, 1, null), (1, 30, 0, 2, 4), (2, 0, 0, 1, null);

insert into imprint.attempt
    (run_id, attempt, host, pid, device, machine, lease_until, step, ended_at, outcome, reason)
values
    (1, 1, 'node', 17, 'cpu', 'x86 avx2', now(), 20, now(), 'lost', 'its process is gone'),
    (1, 2, 'node', 18, 'cpu', 'x86 avx2', now(), 70, now(), 'finished', '');
insert into imprint.saved_state (run_id, step, attempt, path, sha256, global_step, keep) values
    (1, 70, 2, '/data/runs/1/attempts/2/states/70', 'sum', 1070, true);
insert into imprint.ingest_head (run_id, attempt, next_reading, next_update) values (1, 2, 71, 70);
insert into imprint.segment (run_id, attempt, first_step, first_reading, machine, same_machine)
values (1, 1, 0, 0, 'x86 avx2', true), (1, 2, 10, 10, 'x86 avx2', true);

select imprint.ensure_partitions(1);
insert into imprint.step_reading
    (run_id, reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats)
select 1, i, i, case when i < 10 then 1 else 2 end,
    array[-i - 0.1, -0.2, -i / 3.0]::float4[], array[-i - 0.3, -0.4, -0.7]::float4[],
    array[-i - 0.5, -0.6, -0.9]::float4[]
from generate_series(0, 70) i;
insert into imprint.superseded_reading
    (run_id, reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats, stored_at,
     superseded_by)
select 1, i, i, 1, '{-1,-2,-3}', '{-4,-5,-6}', '{-7,-8,-9}', now(), 2 from generate_series(10, 20) i;
insert into imprint.update_stats
    (run_id, step, attempt, loss_nats, learning_rate, grad_norm, update_norm, n_tokens,
     n_injected_tokens, duration_ms)
select 1, t, case when t < 10 then 1 else 2 end, 2 + 1 / (t + 1.0), 1e-3, 0.5, 0.01, 128, 16, 12.5
from generate_series(0, 69) t;
insert into imprint.superseded_update
    (run_id, step, attempt, loss_nats, learning_rate, grad_norm, update_norm, n_tokens,
     n_injected_tokens, duration_ms, superseded_by)
select 1, t, 1, 2.5, 1e-3, 0.5, 0.01, 128, 16, 12.5, 2 from generate_series(10, 19) t;

insert into imprint.step_mean
    (run_id, arm, depth, swap, reading, step, n_probes, first_mean_nats, target_mean_nats,
     full_mean_nats)
select 1, g.arm, g.depth, g.swap, s.reading, s.step, 1,
    s.first_sum_nats[g.probe]::float8, s.target_sum_nats[g.probe]::float8 / g.n_target,
    s.full_sum_nats[g.probe]::float8 / g.n_full
from imprint.step_reading s
cross join (values
    (0::int2, 0::int2, false, 1, 2, 5), (-1::int2, 1::int2, false, 2, 3, 6),
    (0::int2, 0::int2, true, 3, 1, 4)) g (arm, depth, swap, probe, n_target, n_full);
insert into imprint.probe_chunk
    (run_id, probe, chunk, first_sum_nats, target_sum_nats, full_sum_nats)
select 1, p, 0, array_agg(first_sum_nats[p + 1] order by reading),
    array_agg(target_sum_nats[p + 1] order by reading),
    array_agg(full_sum_nats[p + 1] order by reading)
from imprint.step_reading cross join generate_series(0, 2) p where reading < 64 group by p;
insert into imprint.chunk_head (run_id, next_chunk) values (1, 1);
