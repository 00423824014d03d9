-- SQL for people: views and functions that stay as they are (docs/sql.md has an example of each),
-- and a place for what is computed outside the database.

-- Arrays of readings have no statistics that a plan could use, and collecting them takes minutes of
-- a processor for each table: millions of values are told apart.

do $$
declare
    part regclass;
begin
    for part in
        select c.oid from pg_class c
        where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p')
            and c.relname ~ '^(step_reading|probe_chunk|superseded_reading)(_[0-9]+)?$'
    loop
        execute format('alter table %s alter first_sum_nats set statistics 0, '
            'alter target_sum_nats set statistics 0, alter full_sum_nats set statistics 0', part);
    end loop;
end $$;

create or replace function imprint.ensure_partitions(of_run int4) returns void
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
                if parent in ('step_reading', 'probe_chunk') then
                    execute format(
                        'alter table imprint.%I alter first_sum_nats set statistics 0, '
                        'alter target_sum_nats set statistics 0, '
                        'alter full_sum_nats set statistics 0', part);
                end if;
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

-- Names.

create function imprint.depth_name(depth int2) returns text
language sql immutable parallel safe
return case depth when 0 then 'mem' when 1 then 'gen' when 2 then 'hard_gen' end;
comment on function imprint.depth_name is 'The name of a depth''s number: mem, gen or hard_gen.';

create function imprint.run_id(run text) returns int4
language plpgsql stable parallel safe as $$
declare
    found int4 := (select e.run_id from imprint.experiment_run e where e.label = $1);
begin
    if found is null then
        raise no_data_found using
            message = format('there is no run `%s`', $1),
            hint = 'select run from imprint.run_summary lists them.';
    end if;
    return found;
end $$;
comment on function imprint.run_id is 'The number of the run with this label (experiment/cell); fails where there is none.';

-- Readings.

drop view imprint.reading;
create view imprint.reading as
select
    r.run_id, e.label as run, s.reading, s.step, p.probe, p.fact, a.name as arm,
    imprint.depth_name(p.depth) as depth, p.ordinal, p.swap_fact is not null as swap,
    u.first_sum_nats::float8 as first_mean_nats,
    u.target_sum_nats::float8 / p.n_target_tokens as target_mean_nats,
    u.full_sum_nats::float8 / p.n_full_tokens as full_mean_nats,
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
comment on view imprint.reading is 'One row per (run, step, probe): its log-probability ℓ, nats. Name a run and a step in the where clause; imprint.curve is much quicker for one probe.';

drop function imprint.probe_curve;
create function imprint.curve(run_id int4, probe int4)
returns table (reading int4, step int4,
    first_mean_nats float8, target_mean_nats float8, full_mean_nats float8,
    first_sum_nats float4, target_sum_nats float4, full_sum_nats float4)
language sql stable parallel safe as $$
    select v.reading, v.step,
        v.first_sum_nats::float8, v.target_sum_nats::float8 / p.n_target_tokens,
        v.full_sum_nats::float8 / p.n_full_tokens,
        v.first_sum_nats, v.target_sum_nats, v.full_sum_nats
    from imprint.run r
    join imprint.probe p on p.probe_set_id = r.probe_set_id and p.probe = $2
    cross join lateral (
        -- Whole chunks, then what came after the last of them.
        select (64 * c.chunk + u.position - 1)::int4, u.step,
            u.first_sum_nats, u.target_sum_nats, u.full_sum_nats
        from imprint.probe_chunk c
        cross join lateral unnest(c.first_sum_nats, c.target_sum_nats, c.full_sum_nats,
            r.reading_steps[64 * c.chunk + 1 : 64 * c.chunk + 64])
            with ordinality as u(first_sum_nats, target_sum_nats, full_sum_nats, step, position)
        where c.run_id = $1 and c.probe = $2
        union all
        select s.reading, s.step, s.first_sum_nats[$2 + 1], s.target_sum_nats[$2 + 1],
            s.full_sum_nats[$2 + 1]
        from imprint.step_reading s
        where s.run_id = $1 and s.reading >= 64 * coalesce(
            (select h.next_chunk from imprint.chunk_head h where h.run_id = $1), 0)
    ) as v(reading, step, first_sum_nats, target_sum_nats, full_sum_nats)
    where r.run_id = $1
    order by v.reading
$$;
comment on function imprint.curve(int4, int4) is 'All readings of one probe of a run, by its number: `*_mean_nats` is ℓ, the mean log-probability per token of a span, `*_sum_nats` the sum over its tokens; nats.';

create function imprint.curve(run text, probe int4)
returns table (reading int4, step int4,
    first_mean_nats float8, target_mean_nats float8, full_mean_nats float8,
    first_sum_nats float4, target_sum_nats float4, full_sum_nats float4)
language sql stable parallel safe as $$ select * from imprint.curve(imprint.run_id($1), $2) $$;
comment on function imprint.curve(text, int4) is 'All readings of one probe of a run, by its label: `*_mean_nats` is ℓ, the mean log-probability per token of a span, `*_sum_nats` the sum over its tokens; nats.';

create or replace view imprint.mean_curve as
select m.run_id, a.label as run, a.name as arm, imprint.depth_name(m.depth) as depth, m.swap,
    m.step, m.n_probes, m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
-- `distinct` changes nothing but the order of work: the few arms are put together first, and each of
-- the many rows is looked up once.
from (select distinct e.run_id, e.label, a.arm, a.name
    from imprint.experiment_run e join imprint.run_arm a using (run_id)) a
join imprint.step_mean m on m.run_id = a.run_id and m.arm = a.arm;

-- What was shown.

create view imprint.exposure as
select i.run_id, e.label as run, a.name as arm, i.fact, i.exposure, i.step,
    case when i.paraphrase is null then 'passage' else 'paraphrase' end as text, i.paraphrase,
    lead(i.step) over nth as next_step
from imprint.injection i
join imprint.experiment_run e using (run_id)
join imprint.run_fact f using (run_id, fact)
join imprint.run_arm a using (run_id, arm)
-- By label and run first, so that asking for one run reads one run.
window nth as (partition by e.label, i.run_id, i.fact order by i.exposure);
comment on view imprint.exposure is 'One row per (run, fact, exposure): the n-th injection of a fact into a batch.';

-- Formulas. The same as in crates/analysis (docs/reproduction.md); tests hold the two together.

create aggregate imprint.concatenated(float4[]) (
    sfunc = array_cat, stype = float4[], parallel = safe);
comment on aggregate imprint.concatenated(float4[]) is 'The arrays one behind the other.';

create function imprint.check_formula(preset text, span text) returns void
language plpgsql immutable parallel safe as $$
begin
    if preset is null or preset not in ('paper', 'code') then
        raise invalid_parameter_value using
            message = format('preset `%s`: use `paper` or `code`', preset);
    end if;
    if span is null or span not in ('first', 'target', 'full') then
        raise invalid_parameter_value using
            message = format('span `%s`: use `first`, `target` or `full`', span);
    end if;
end $$;
comment on function imprint.check_formula is 'Fails unless preset and span are ones that there are.';

create function imprint.block(of_run int4, of_span text, first_block int4, last_block int4)
returns table (probe int4, block int4, sum_nats float4[])
language sql stable parallel safe as $$
    select c.probe, c.chunk, case of_span when 'first' then c.first_sum_nats
        when 'target' then c.target_sum_nats else c.full_sum_nats end
    from imprint.probe_chunk c
    where c.run_id = of_run and c.chunk between first_block and last_block
    union all
    select u.position::int4 - 1, s.reading / 64, array_agg(u.sum_nats order by s.reading)
    from imprint.step_reading s
    cross join lateral unnest(case of_span when 'first' then s.first_sum_nats
        when 'target' then s.target_sum_nats else s.full_sum_nats end)
        with ordinality as u(sum_nats, position)
    where s.run_id = of_run and s.reading < 64 * (last_block + 1)
        and s.reading >= 64 * greatest(first_block, coalesce(
            (select h.next_chunk from imprint.chunk_head h where h.run_id = of_run), 0))
    group by 1, 2
$$;
comment on function imprint.block is 'Internal: 64 consecutive readings of each probe, as far as they are stored; whole chunks, and the last one even when it is not whole.';

create function imprint.peak(of_run int4, max_window_steps int4, of_span text)
returns table (probe int4, exposure int4, step int4, window_steps int4, t_lam int4,
    before_nats float8, peak_nats float8)
-- Planned for this very run: its rows are a share of its partition's that no average tells.
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off
set enable_nestloop = off set work_mem = '64MB' as $$
#variable_conflict use_column
declare
    steps int4[];
    of_set int4;
    last_step int4;
    -- Blocks of readings that windows lie in.
    first_block int4;
    last_block int4;
begin
    select r.reading_steps[1 : h.next_reading], r.probe_set_id, r.n_updates
    into steps, of_set, last_step
    from imprint.run r join imprint.ingest_head h using (run_id) where r.run_id = of_run;
    select (width_bucket(min(i.step), steps) - 1) / 64,
        (width_bucket(max(i.step) + max_window_steps, steps) - 1) / 64
    into first_block, last_block
    from imprint.injection i where i.run_id = of_run;
    if coalesce(cardinality(steps), 0) = 0 or first_block is null then
        return;
    end if;
    return query
    with shown as materialized (
        select i.fact, i.exposure, i.step, greatest(0, least(max_window_steps,
            lead(i.step) over (partition by i.fact order by i.exposure) - i.step,
            last_step - i.step)) as window_steps
        from imprint.injection i where i.run_id = of_run
    ), seen as materialized (
        -- Numbers of readings: up to the injection, and up to the end of the window.
        select w.step, w.window_steps, w.n_before, w.n_through
        from (
            select step, window_steps, width_bucket(step, steps) as n_before,
                width_bucket(step + window_steps, steps) as n_through
            from (select distinct step, window_steps from shown) w offset 0
        ) w
        where n_through > n_before and steps[n_before] = step
    ), asked as materialized (
        select p.probe, x.exposure, s.*
        from shown x
        join seen s using (step, window_steps)
        join imprint.probe p on p.probe_set_id = of_set and p.fact = x.fact
        union all
        select p.probe, null, s.*
        from imprint.run_fact f
        join imprint.probe p on p.probe_set_id = of_set and p.fact = f.fact
        cross join seen s
        where f.run_id = of_run and f.arm = -1 and p.swap_fact is null
    ), series as materialized (
        select b.probe, imprint.concatenated(b.sum_nats) as nats
        from (select probe, sum_nats from imprint.block(of_run, of_span, first_block, last_block)
            order by probe, block) b
        group by b.probe
    ), read as materialized (
        select a.*, s.nats[a.n_before - 64 * first_block] as before,
            s.nats[a.n_before - 64 * first_block + 1 : a.n_through - 64 * first_block] as nats
        from asked a join series s using (probe)
    ), top as materialized (
        -- Not `from unnest`, which would write each slice into a table of its own first.
        select r.*, (select max(u) from (select unnest(r.nats) as u) x) as max_nats from read r
    )
    select r.probe, r.exposure, r.step, r.window_steps,
        steps[r.n_before + array_position(r.nats, r.max_nats)],
        r.before::float8 / t.n_tokens, r.max_nats::float8 / t.n_tokens
    from top r
    join (select p.probe, case of_span when 'first' then 1 when 'target' then p.n_target_tokens
            else p.n_full_tokens end as n_tokens
        from imprint.probe p where p.probe_set_id = of_set) t using (probe);
end $$;
comment on function imprint.peak is 'Internal: for each exposure of each probe the largest reading in its window (t_LAM, the first on ties); for held-out facts'' probes the same in every window, without an exposure.';

create function imprint.effectivity(run_id int4, max_window_steps int4 default 50,
    preset text default 'paper', span text default 'target')
returns table (arm text, fact int4, depth text, ordinal int2, probe int4, exposure int4,
    step int4, window_steps int4, t_lam int4, own_nats float8, null_nats float8,
    swap_nats float8, effect_nats float8, swap_effect_nats float8, binding_nats float8,
    is_outlier bool)
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off
set enable_nestloop = off set work_mem = '64MB' as $$
#variable_conflict use_column
begin
    perform imprint.check_formula($3, $4);
    return query
    with gain as materialized (
        select k.probe, k.exposure, k.step, k.window_steps, k.t_lam,
            k.peak_nats - k.before_nats as nats, p.fact, p.depth, p.ordinal,
            p.swap_fact is not null as swap
        from imprint.peak($1, $2, $4) k
        join imprint.run r on r.run_id = $1
        join imprint.probe p on p.probe_set_id = r.probe_set_id and p.probe = k.probe
    ), null_gain as materialized (
        select g.depth, g.step, g.window_steps, avg(g.nats) as nats
        from gain g where g.exposure is null group by 1, 2, 3
    ), swap_gain as materialized (
        select g.fact, g.depth, g.exposure, avg(g.nats) as nats
        from gain g where g.swap group by 1, 2, 3
    ), own as materialized (
        select a.arm as arm_number, a.name, g.*, n.nats as null_nats, s.nats as swap_nats
        from gain g
        join imprint.run_fact f on f.run_id = $1 and f.fact = g.fact
        join imprint.run_arm a on a.run_id = $1 and a.arm = f.arm
        left join null_gain n on n.depth = g.depth
            and (n.step, n.window_steps) = (g.step, g.window_steps)
        left join swap_gain s on s.fact = g.fact
            and (s.depth, s.exposure) = (g.depth, g.exposure)
        where g.exposure is not null and not g.swap
    ), inner_half as (
        -- Fewer than four values have no quartiles worth the name.
        select o.arm_number, o.depth, o.exposure, case when count(*) >= 4 then
            percentile_cont(array[0.25, 0.75]) within group (order by o.nats) end as q
        from own o group by 1, 2, 3
    )
    select o.name, o.fact, imprint.depth_name(o.depth), o.ordinal, o.probe, o.exposure, o.step,
        o.window_steps, o.t_lam, o.nats, o.null_nats, o.swap_nats, o.nats - o.null_nats,
        o.swap_nats - o.null_nats, o.nats - o.swap_nats,
        coalesce(o.nats not between h.q[1] - x.factor * (h.q[2] - h.q[1])
            and h.q[2] + x.factor * (h.q[2] - h.q[1]), false)
    from own o
    join inner_half h using (arm_number, depth, exposure)
    cross join (select case $3 when 'paper' then 1.5 else 2.0 end as factor) x
    order by o.arm_number, o.depth, o.fact, o.probe, o.exposure;
end $$;
comment on function imprint.effectivity(int4, int4, text, text) is 'One row per (probe, exposure) of a run, by its number: ε = ℓ(t_LAM) − ℓ(step) in nats, and its controls. `max_window_steps`: t_LAM is looked for that many steps after an injection at most; `preset`: `paper` or `code`, whose outliers are marked; `span`: first, target or full. The columns are those of the view.';

create function imprint.effectivity(run text, max_window_steps int4 default 50,
    preset text default 'paper', span text default 'target')
returns table (arm text, fact int4, depth text, ordinal int2, probe int4, exposure int4,
    step int4, window_steps int4, t_lam int4, own_nats float8, null_nats float8,
    swap_nats float8, effect_nats float8, swap_effect_nats float8, binding_nats float8,
    is_outlier bool)
language sql stable parallel safe as $$
    select * from imprint.effectivity(imprint.run_id($1), $2, $3, $4)
$$;
comment on function imprint.effectivity(text, int4, text, text) is 'One row per (probe, exposure) of a run, by its label: ε = ℓ(t_LAM) − ℓ(step) in nats, and its controls. `max_window_steps`: t_LAM is looked for that many steps after an injection at most; `preset`: `paper` or `code`, whose outliers are marked; `span`: first, target or full. The columns are those of the view.';

create view imprint.effectivity as
select e.run_id, e.label as run, x.*
from imprint.experiment_run e cross join lateral imprint.effectivity(e.run_id) x;
comment on view imprint.effectivity is 'One row per (run, probe, exposure): ε with its controls, by the paper''s window and outliers and over the target span. Name a run in the where clause. For other parameters there is the function of the same name.';

create function imprint.retainability(run_id int4, max_window_steps int4 default 50,
    preset text default 'paper', span text default 'target', at_steps int4[] default null)
returns table (arm text, depth text, estimator text, null_subtracted bool, t_steps int4,
    r float8, n_probes int8, n_outliers int8, n_small_gain int8)
language plpgsql stable parallel safe set plan_cache_mode = force_custom_plan set jit = off
set enable_nestloop = off set work_mem = '64MB' as $$
#variable_conflict use_column
declare
    steps int4[];
    of_set int4;
    last_step int4;
    iqr_factor float8 := case $3 when 'paper' then 1.5 else 2.0 end;
    -- Ratios over a gain of 0.1 nats or less are noise.
    min_gain_nats float8 := case $3 when 'paper' then 0.1 else 0 end;
begin
    perform imprint.check_formula($3, $4);
    select r.reading_steps[1 : h.next_reading], r.probe_set_id into steps, of_set
    from imprint.run r join imprint.ingest_head h using (run_id) where r.run_id = $1;
    if coalesce(cardinality(steps), 0) = 0 then
        return;
    end if;
    last_step := steps[cardinality(steps)];
    return query
    with peaked as materialized (
        select p.probe, f.arm, p.depth, x.t_pre, width_bucket(x.t_pre, steps) as n_pre, k.t_lam,
            k.peak_nats, case $4 when 'first' then 1 when 'target' then p.n_target_tokens
                else p.n_full_tokens end as n_tokens
        from imprint.peak($1, $2, $4) k
        join imprint.probe p on p.probe_set_id = of_set and p.probe = k.probe
        join imprint.run_fact f on f.run_id = $1 and f.fact = p.fact
        join (select i.fact, min(i.step) as t_pre, max(i.exposure) as last_exposure
            from imprint.injection i where i.run_id = $1 group by i.fact) x
            on x.fact = p.fact and x.last_exposure = k.exposure
        where p.swap_fact is null and steps[width_bucket(x.t_pre, steps)] = x.t_pre
    ), taken as materialized (
        -- ℓ is linear in the step between readings: which of them count, and how much.
        select s.step + o as step, w.reading, w.weight
        from (select step, position::int4 as reading,
                lead(step) over (order by position) - step as gap
            from unnest(steps) with ordinality as s(step, position)) s
        cross join lateral generate_series(0, coalesce(gap, 1) - 1) o
        cross join lateral (values (reading, 1 - o::float8 / coalesce(gap, 1)),
            (reading + 1, o::float8 / coalesce(gap, 1))) w(reading, weight)
        where w.weight > 0
    ), drift as materialized (
        select m.depth, w.step, sum(w.weight * case $4 when 'first' then m.first_mean_nats
            when 'target' then m.target_mean_nats else m.full_mean_nats end) as nats
        from imprint.step_mean m
        join taken w on w.reading = m.reading + 1
        where m.run_id = $1 and m.arm = -1 and not m.swap
        group by 1, 2
    ), series as materialized (
        select b.probe, imprint.concatenated(b.sum_nats) as nats
        from (select probe, sum_nats
            from imprint.block($1, $4, 0, (cardinality(steps) - 1) / 64) order by probe, block) b
        group by b.probe
    ), base as materialized (
        select k.probe, k.arm, k.depth, s.nats[k.n_pre]::float8 / k.n_tokens as pre_nats,
            k.peak_nats, pre.nats as null_pre_nats, lam.nats as null_lam_nats
        from peaked k
        join series s using (probe)
        left join drift pre on pre.depth = k.depth and pre.step = k.t_pre
        left join drift lam on lam.depth = k.depth and lam.step = k.t_lam
    ), wanted as materialized (
        select t from unnest(at_steps) t
        union
        -- About evenly spaced in log t.
        select round(10 ^ (k / 20.0))::int4 from generate_series(0, 180) k where at_steps is null
    ), asked as materialized (
        select k.probe, k.n_tokens, t.t, w.*
        from peaked k
        join (select arm, depth, last_step - max(t_lam) as t_max from peaked group by 1, 2) g
            using (arm, depth)
        join wanted t on t.t between 1 and g.t_max
        join taken w on w.step = k.t_lam + t.t
        where g.t_max >= 2
    ), part as materialized (
        -- Apart from `asked`, so that nothing but numbers is sorted.
        select a.probe, a.t, a.step, a.weight * (s.nats[a.reading]::float8 / a.n_tokens) as nats
        from asked a join series s using (probe)
    ), gain as materialized (
        select b.arm, b.depth, b.probe, o.t,
            b.peak_nats - b.pre_nats as whole_nats, o.nats - b.pre_nats as left_nats,
            b.null_lam_nats - b.null_pre_nats as null_whole_nats,
            d.nats - b.null_pre_nats as null_left_nats
        from (select probe, t, step, sum(nats) as nats from part group by 1, 2, 3) o
        join base b using (probe)
        left join drift d on d.depth = b.depth and d.step = o.step
    ), share as materialized (
        select arm, depth, false as null_subtracted, t, whole_nats, left_nats from gain
        union all
        select arm, depth, true, t, whole_nats - null_whole_nats, left_nats - null_left_nats
        from gain where null_left_nats is not null
    ), ratio as materialized (
        select arm, depth, null_subtracted, t, left_nats / whole_nats as r
        from share
        where whole_nats <> 0 and ($3 = 'code' or whole_nats >= min_gain_nats)
    ), inner_half as materialized (
        -- Fewer than four values have no quartiles worth the name.
        select arm, depth, null_subtracted, t, count(*) as n, case when count(*) >= 4 then
            percentile_cont(array[0.25, 0.75]) within group (order by r) end as q
        from ratio group by 1, 2, 3, 4
    ), of_means as materialized (
        select arm, depth, null_subtracted, t, sum(left_nats) / nullif(sum(whole_nats), 0) as r,
            count(*) as n, avg(whole_nats) > min_gain_nats as is_gain
        from share group by 1, 2, 3, 4
    ), curve as (
        select arm, depth, 'ratio_of_means' as estimator, null_subtracted, t, r,
            n as n_probes, 0::int8 as n_outliers, 0::int8 as n_small_gain
        from of_means where is_gain
        union all
        select arm, depth, 'mean_of_ratios', null_subtracted, t, avg(x.r), count(*),
            i.n - count(*), m.n - i.n
        from ratio x
        join inner_half i using (arm, depth, null_subtracted, t)
        join of_means m using (arm, depth, null_subtracted, t)
        where i.q is null or x.r between i.q[1] - iqr_factor * (i.q[2] - i.q[1])
            and i.q[2] + iqr_factor * (i.q[2] - i.q[1])
        group by 1, 2, 4, 5, i.n, m.n
    )
    select a.name, imprint.depth_name(c.depth), c.estimator, c.null_subtracted, c.t, c.r,
        c.n_probes, c.n_outliers, c.n_small_gain
    from curve c join imprint.run_arm a on a.run_id = $1 and a.arm = c.arm
    order by c.arm, c.depth, c.estimator desc, c.null_subtracted desc, c.t;
end $$;
comment on function imprint.retainability(int4, int4, text, text, int4[]) is 'R over t of a run, by its number: the share of the whole gain that is left t steps after t_LAM, per (arm, depth, estimator, null_subtracted). `at_steps` are the t wanted, about 20 a decade where null; `max_window_steps`, `preset` and `span` are those of imprint.effectivity. The columns are those of the view.';

create function imprint.retainability(run text, max_window_steps int4 default 50,
    preset text default 'paper', span text default 'target', at_steps int4[] default null)
returns table (arm text, depth text, estimator text, null_subtracted bool, t_steps int4,
    r float8, n_probes int8, n_outliers int8, n_small_gain int8)
language sql stable parallel safe as $$
    select * from imprint.retainability(imprint.run_id($1), $2, $3, $4, $5)
$$;
comment on function imprint.retainability(text, int4, text, text, int4[]) is 'R over t of a run, by its label: the share of the whole gain that is left t steps after t_LAM, per (arm, depth, estimator, null_subtracted). `at_steps` are the t wanted, about 20 a decade where null; `max_window_steps`, `preset` and `span` are those of imprint.effectivity. The columns are those of the view.';

create view imprint.retainability as
select e.run_id, e.label as run, x.*
from imprint.experiment_run e cross join lateral imprint.retainability(e.run_id) x;
comment on view imprint.retainability is 'R over t per (run, arm, depth, estimator, null_subtracted, t), by the paper''s window and outliers and over the target span. Name a run in the where clause. For other parameters there is the function of the same name.';

-- What is computed outside the database: fits and their bootstrap intervals.

create table imprint.analysis (
    run_id int4 not null references imprint.run on delete cascade,
    preset text not null check (preset in ('paper', 'code')),
    span text not null check (span in ('first', 'target', 'full')),
    max_window_steps int4 not null,
    version int4 not null,
    attempt int4 not null,
    next_reading int4 not null,
    computed_at timestamptz not null default now(),
    primary key (run_id, preset, span, max_window_steps)
);
comment on table imprint.analysis is 'Which runs were analysed, how, and on which readings. Current while those of the run are the same: see imprint.decay_fit.';
comment on column imprint.analysis.version is 'Version of the formulas and their defaults that computed it.';
comment on column imprint.analysis.attempt is 'The attempt whose stream the run''s readings were: ingest_head.attempt.';
comment on column imprint.analysis.next_reading is 'How many readings there were: ingest_head.next_reading.';
comment on column imprint.analysis.computed_at is 'When it was computed.';

create table imprint.analysis_result (
    run_id int4 not null,
    preset text not null,
    span text not null,
    max_window_steps int4 not null,
    arm text not null,
    depth int2 not null,
    fit text not null,
    kind text check (kind in ('robust', 'published')),
    n_points int4 not null,
    decay_a float8 not null,
    decay_a_ci95_low float8,
    decay_a_ci95_high float8,
    intercept float8 not null,
    r2 float8 not null,
    r2_linear float8 not null,
    threshold_log10_steps float8,
    threshold_log10_tokens float8,
    threshold_log10_tokens_ci95_low float8,
    threshold_log10_tokens_ci95_high float8,
    primary key (run_id, preset, span, max_window_steps, arm, depth, fit),
    foreign key (run_id, preset, span, max_window_steps) references imprint.analysis
        on delete cascade
);
comment on table imprint.analysis_result is 'A fitted line of retainability on log10 t: also of analyses that are no longer current.';

create view imprint.decay_fit as
select s.run_id, e.label as run, s.arm, imprint.depth_name(s.depth) as depth, s.span, s.preset,
    s.max_window_steps, s.kind, s.fit, s.decay_a, s.decay_a_ci95_low, s.decay_a_ci95_high,
    s.intercept, s.r2, s.r2_linear, s.n_points, n.version, n.computed_at
from imprint.analysis_result s
join imprint.analysis n using (run_id, preset, span, max_window_steps)
join imprint.ingest_head h on h.run_id = s.run_id
    and (h.attempt, h.next_reading) = (n.attempt, n.next_reading)
join imprint.experiment_run e on e.run_id = s.run_id;
comment on view imprint.decay_fit is 'One row per (run, arm, depth, span, preset, fit): R ≈ intercept − decay_a · log10 t. Only what was computed from the readings that the run has now; `imprint analyze` computes what is missing.';

create view imprint.learnability_threshold as
select s.run_id, e.label as run, s.arm, imprint.depth_name(s.depth) as depth, s.span, s.preset,
    s.max_window_steps, s.kind, s.fit, s.threshold_log10_steps, s.threshold_log10_tokens,
    s.threshold_log10_tokens_ci95_low, s.threshold_log10_tokens_ci95_high,
    n.version, n.computed_at
from imprint.analysis_result s
join imprint.analysis n using (run_id, preset, span, max_window_steps)
join imprint.ingest_head h on h.run_id = s.run_id
    and (h.attempt, h.next_reading) = (n.attempt, n.next_reading)
join imprint.experiment_run e on e.run_id = s.run_id
where s.threshold_log10_steps is not null;
comment on view imprint.learnability_threshold is 'One row per fit of imprint.decay_fit whose line falls: log10 of the time at which it meets R = 0. An extrapolation; never show it without its fit.';

drop view imprint.run_summary;
create view imprint.run_summary as
select r.run_id, e.label as run, x.name as experiment,
    -- The cell of a label is checkpoint-scenario-bBATCH-sSEED.
    regexp_replace(substr(e.label, strpos(e.label, '/') + 1), format('-%s-b%s-s%s$',
        regexp_replace(i.scenario_name, '([^[:alnum:]_])', '\\\1', 'g'), i.batch_size, i.seed), '')
        as checkpoint,
    i.scenario_name as scenario, i.batch_size, i.seq_len,
    i.batch_size::int8 * i.seq_len as tokens_per_step, i.seed,
    r.state, r.reason, p.n_probes, r.n_updates,
    cardinality(r.reading_steps) as readings_expected,
    coalesce(h.next_reading, 0) as readings_stored, coalesce(h.next_update, 0) as updates_stored,
    coalesce((select max(attempt) from imprint.attempt t where t.run_id = r.run_id), 0) as attempts,
    case (select bool_or((n.attempt, n.next_reading) = (h.attempt, h.next_reading))
            from imprint.analysis n where n.run_id = r.run_id)
        when true then 'current' when false then 'stale' else 'none' end as analysis,
    r.created_at, r.started_at, r.finished_at
from imprint.run r
join imprint.experiment_run e using (run_id)
join imprint.experiment x using (experiment_id)
join imprint.probe_set p using (probe_set_id)
left join imprint.ingest_head h using (run_id)
cross join lateral jsonb_to_record(r.spec -> 'identity')
    as i(scenario_name text, batch_size int4, seq_len int4, seed numeric);
comment on view imprint.run_summary is 'One row per run of an experiment, with its progress. A run that two experiments share has a row, and a label, in each.';

-- Every column says what it is and in which unit.

comment on column imprint.reading.step is 'Read on the parameters before update `step`; an injection at step t first shows at t + 1.';
comment on column imprint.reading.first_mean_nats is 'ℓ of the first target token, nats.';
comment on column imprint.reading.target_mean_nats is 'ℓ over the target span, the paper''s headline: mean log-probability per token, nats.';
comment on column imprint.reading.full_mean_nats is 'ℓ over every token of the probe but the first, nats.';
comment on column imprint.mean_curve.step is 'Read on the parameters before update `step`.';
comment on column imprint.mean_curve.n_probes is 'Probes over which the mean is taken.';
comment on column imprint.exposure.step is 'Shown in the batch of update `step`; reading `step` does not show it yet.';
comment on column imprint.exposure.text is 'passage or paraphrase.';
comment on column imprint.exposure.next_step is 'Step of the fact''s next exposure; null for the last.';
comment on column imprint.effectivity.step is 'Step of the injection; its reading does not show it yet.';
comment on column imprint.effectivity.window_steps is 'Steps after the injection in which the maximum was looked for: 50, or fewer where the fact is injected again or the run ends.';
comment on column imprint.effectivity.t_lam is 'Step of the largest ℓ in the window, the first on ties: the local acquisition maximum.';
comment on column imprint.effectivity.own_nats is 'ε = ℓ(t_lam) − ℓ(step), nats.';
comment on column imprint.effectivity.null_nats is 'The same over the same window on the probes of held-out facts of this depth, each with its own maximum, averaged; nats.';
comment on column imprint.effectivity.swap_nats is 'The same on this fact''s swap probes of this depth, averaged; nats.';
comment on column imprint.effectivity.effect_nats is 'own − null, nats.';
comment on column imprint.effectivity.swap_effect_nats is 'swap − null, nats.';
comment on column imprint.effectivity.binding_nats is 'own − swap: the gain that is bound to the subject, nats.';
comment on column imprint.effectivity.is_outlier is 'Whether own_nats lies beyond 1.5 interquartile ranges of the quartiles of its (arm, depth, exposure): left out of the published mean.';
comment on column imprint.retainability.estimator is 'ratio_of_means: mean gain left over mean whole gain; mean_of_ratios: the mean of the probes'' own ratios without small gains and outliers, as published.';
comment on column imprint.retainability.null_subtracted is 'Whether what held-out facts gained over the same steps is subtracted in numerator and denominator.';
comment on column imprint.retainability.t_steps is 'Steps since t_lam of the last exposure.';
comment on column imprint.retainability.r is 'Share of the whole gain, from the reading at the first injection to t_lam of the last, that is left.';
comment on column imprint.retainability.n_probes is 'Probes averaged.';
comment on column imprint.retainability.n_outliers is 'Probes left out at this t as outliers.';
comment on column imprint.retainability.n_small_gain is 'Probes left out because their whole gain is below 0.1 nats.';
comment on column imprint.step_stats.step is 'Update `step` maps the parameters of reading `step` to those of the next.';
comment on column imprint.step_stats.loss_nats is 'Mean cross-entropy over all predicted tokens of the global batch, nats.';
comment on column imprint.update_stats.loss_nats is 'Mean cross-entropy over all predicted tokens of the global batch, nats.';
comment on column imprint.step_stats.tokens_per_second is 'Tokens of the batch over the duration of the update.';
comment on column imprint.run_summary.reason is 'Why it failed, or why it waits.';
comment on column imprint.run_summary.readings_expected is 'Readings that the run declares.';
comment on column imprint.run_summary.attempts is 'Attempts begun.';
comment on column imprint.run_summary.analysis is 'current: imprint.decay_fit has it; stale: computed from readings that are not the run''s any more; none.';
comment on column imprint.run_summary.n_updates is 'Optimizer updates that the run makes.';
comment on column imprint.attempt.began_at is 'When its trainer process called BeginAttempt.';
comment on column imprint.attempt.ended_at is 'When it ended; null while it runs.';
comment on column imprint.attempt.reason is 'Why it ended, where it did not finish.';
comment on column imprint.probe_set.n_probes is 'Probes of the set.';
comment on column imprint.run.state is 'queued, running, delivering, complete, failed or cancelled (docs/runs.md).';
comment on column imprint.saved_state.path is 'Directory of the state, below the run''s.';
comment on column imprint.saved_state.sha256 is 'Hash of the state''s manifest, which hashes every file of it.';
comment on column imprint.segment.first_reading is 'Index of the first reading from first_step on.';
comment on column imprint.run_arm.name is 'The arm''s name; built-in scenarios of one arm name it as they are named.';

-- Words that mean the same everywhere (docs/glossary.md).
do $$
declare
    meant record;
begin
    for meant in
        select c.relname, a.attname, w.meaning
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join (values
            ('run_id', 'The run''s number in this database.'),
            ('run', 'The run''s label: experiment/checkpoint-scenario-bBATCH-sSEED.'),
            ('experiment', 'The experiment''s name.'),
            ('experiment_id', 'The experiment.'),
            ('probe_set_id', 'The set of probes.'),
            ('checkpoint', 'The checkpoint''s name in the experiment.'),
            ('scenario', 'The scenario''s name: how facts are shown.'),
            ('batch_size', 'Rows of a global batch.'),
            ('seq_len', 'Tokens of a row.'),
            ('tokens_per_step', 'Batch size × sequence length.'),
            ('seed', 'The run''s seed.'),
            ('state', 'queued, running, delivering, complete, failed or cancelled.'),
            ('arm', 'The group of facts shown in one way; held_out (-1) is the null control.'),
            ('fact', 'Index of the fact in the facts file.'),
            ('depth', 'How far the wording is from the passage: mem (0), gen (1) or hard_gen (2).'),
            ('ordinal', 'Index within its fact and depth.'),
            ('probe', 'Position of the probe''s value in every reading.'),
            ('prompt', 'The text before the target.'),
            ('target', 'The text whose log-probability is read.'),
            ('swap', 'Whether the target is read after another fact''s subject: the swap control.'),
            ('exposure', '1 for the first time the fact is shown.'),
            ('paraphrase', 'Index of the paraphrase shown; null for the passage itself.'),
            ('reading', 'Index of the reading: position in run.reading_steps.'),
            ('step', 'Optimizer updates since the run''s start.'),
            ('global_step', 'Optimizer updates since the parameters were initialised.'),
            ('chunk', '64 consecutive readings: reading / 64.'),
            ('next_chunk', 'Chunks below this one are made.'),
            ('attempt', 'The attempt, by its number.'),
            ('superseded_by', 'The attempt that measured it again.'),
            ('superseded_at', 'When that attempt opened its stream.'),
            ('first_sum_nats', 'Log-probability of the first target token, nats.'),
            ('target_sum_nats', 'Summed log-probability of the target''s tokens, nats.'),
            ('full_sum_nats', 'Summed log-probability of every token but the first, nats.'),
            ('first_mean_nats', 'Mean over probes of ℓ of the first target token, nats.'),
            ('target_mean_nats', 'Mean over probes of ℓ over the target span, nats per token.'),
            ('full_mean_nats', 'Mean over probes of ℓ over every token but the first, nats per token.'),
            ('n_probes', 'Number of probes.'),
            ('loss_nats', 'Mean cross-entropy over all predicted tokens of the global batch, nats.'),
            ('learning_rate', 'The rate of this update.'),
            ('grad_norm', 'Global L2 norm of the gradient before clipping.'),
            ('update_norm', 'Global L2 norm of the change of the parameters.'),
            ('n_tokens', 'Tokens of the global batch.'),
            ('n_injected_tokens', 'Of these, tokens of injected facts.'),
            ('duration_ms', 'Wall-clock time of the update, milliseconds.'),
            ('steps_per_second', 'Updates a second, by the trainer''s last word.'),
            ('host', 'Name of the machine.'),
            ('pid', 'Process of the trainer.'),
            ('machine', 'Processor and its features: equal machines give equal bits.'),
            ('heartbeat_at', 'When its trainer was last heard of.'),
            ('outcome', 'finished, stopped, failed, lost or superseded; null while it runs.'),
            ('reason', 'Why.'),
            ('parent_step', 'The step of that state.'),
            ('cancel_requested', 'Whether its trainer is being stopped for good.'),
            ('readings_stored', 'Readings stored.'),
            ('updates_stored', 'Updates whose statistics are stored.'),
            ('created_at', 'When it was submitted.'),
            ('started_at', 'When its first attempt began.'),
            ('finished_at', 'When it was complete, failed or cancelled.'),
            ('saved_at', 'When it was recorded.'),
            ('opened_at', 'When the attempt opened its stream.'),
            ('stored_at', 'When it was committed.'),
            ('computed_at', 'When it was computed.'),
            ('version', 'Version of the formulas that computed it.'),
            ('preset', 'Whose reading of the formulas: the paper''s text or its released code.'),
            ('span', 'The tokens of a probe whose ℓ it is about: first, target or full.'),
            ('max_window_steps', 't_lam was looked for this many steps after an injection at most.'),
            ('kind', 'robust: what tables and figures lead with; published: as the preset''s authors fitted; null: another.'),
            ('fit', 'How the line was made: estimator, control, weighting.'),
            ('n_points', 'Points that the line was fitted through.'),
            ('decay_a', 'The decay constant: what R loses in each tenfold of t.'),
            ('decay_a_ci95_low', 'Lower end of its 95 % bootstrap interval over facts; robust fits only.'),
            ('decay_a_ci95_high', 'Upper end of that interval.'),
            ('intercept', 'R of the line at t = 1 step.'),
            ('r2', 'Share of the variance of R that the line explains.'),
            ('r2_linear', 'The same of a line in t itself, for comparison.'),
            ('threshold_log10_steps', 'Learnability threshold: log10 of the steps at which the line meets R = 0.'),
            ('threshold_log10_tokens', 'The same in tokens, log10.'),
            ('threshold_log10_tokens_ci95_low', 'Lower end of its 95 % bootstrap interval over facts; robust fits only.'),
            ('threshold_log10_tokens_ci95_high', 'Upper end of that interval; null where it is at infinity.')
        ) as w(name, meaning) on w.name = a.attname
        where c.relnamespace = 'imprint'::regnamespace and c.relkind in ('r', 'p', 'v')
            and not c.relispartition and col_description(c.oid, a.attnum) is null
    loop
        execute format('comment on column imprint.%I.%I is %L',
            meant.relname, meant.attname, meant.meaning);
    end loop;
end $$;
