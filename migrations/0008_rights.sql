-- What roles may see, also when they are granted their rights once more; and an index.

alter function imprint.ensure_roles() rename to grant_to_roles;
comment on function imprint.grant_to_roles is 'Internal: imprint.ensure_roles without what readers must not see.';

create function imprint.ensure_roles() returns void
language plpgsql as $$
begin
    perform imprint.grant_to_roles();
    if exists (select from pg_roles where rolname = 'imprint_reader') then
        revoke all on imprint.token from imprint_reader;
        -- An archive says of which version of the schema it is.
        if to_regclass('public._sqlx_migrations') is not null then
            grant select on public._sqlx_migrations to imprint_reader;
        end if;
    end if;
end $$;
comment on function imprint.ensure_roles is 'Makes imprint_writer and imprint_reader where they are not there and this role may, and grants them what they need; may be repeated.';
revoke execute on function imprint.ensure_roles() from public;

select imprint.ensure_roles();

-- Every view that is asked for a run by its number looks its label up.
create index experiment_run_run on imprint.experiment_run (run_id);

-- Programs of an older release go on until something goes away that they use.

create function imprint.oldest_program() returns int8
language sql immutable parallel safe return 8;
comment on function imprint.oldest_program is 'The newest migration that a program has to know to work with this schema; a migration that takes something away raises it.';
