-- Two roles for everyone who does not own the schema: the services write, people read.

-- Who writes makes no tables, but a run's readings may need new partitions.
alter function imprint.ensure_partitions(int4) security definer set search_path = pg_catalog, pg_temp;
revoke execute on function imprint.ensure_partitions(int4) from public;

-- Roles belong to the whole cluster, so another database's migration may make them at this moment.
create function imprint.ensure_roles() returns void
language plpgsql as $$
declare
    role text;
begin
    foreach role in array array['imprint_writer', 'imprint_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
                if role = 'imprint_reader' then
                    execute 'alter role imprint_reader set default_transaction_read_only = on';
                    execute 'alter role imprint_reader set statement_timeout = ''5min''';
                    execute 'alter role imprint_reader '
                        'set idle_in_transaction_session_timeout = ''10min''';
                end if;
            end if;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'this role may not make the role %; once somebody has made it, '
                    'select imprint.ensure_roles()', role;
                continue;
        end;
        begin
            -- So that the owner can `set role`.
            if not pg_has_role(role, 'member') then
                execute format('grant %I to current_user', role);
            end if;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'the role % is not granted to the owner of the schema', role;
        end;

        execute format('grant usage on schema imprint to %I', role);
        execute format('grant select on all tables in schema imprint to %I', role);
        execute format(
            'alter default privileges in schema imprint grant select on tables to %I', role);
        if role = 'imprint_writer' then
            execute 'grant insert, update, delete on all tables in schema imprint '
                'to imprint_writer';
            execute 'grant usage on all sequences in schema imprint to imprint_writer';
            execute 'alter default privileges in schema imprint '
                'grant insert, update, delete on tables to imprint_writer';
            execute 'alter default privileges in schema imprint '
                'grant usage on sequences to imprint_writer';
            execute 'grant execute on function imprint.ensure_partitions(int4) '
                'to imprint_writer';
            -- A service sees by it that the schema is up to date.
            if to_regclass('public._sqlx_migrations') is not null then
                execute 'grant select on public._sqlx_migrations to imprint_writer';
            end if;
        end if;
    end loop;
end $$;
comment on function imprint.ensure_roles is 'Makes imprint_writer and imprint_reader where they are not there and this role may, and grants them what they need; may be repeated.';
revoke execute on function imprint.ensure_roles() from public;

select imprint.ensure_roles();
