-- Attempts of processes that are out of reach of the services.

alter table imprint.attempt add column offline bool not null default false;
comment on column imprint.attempt.offline is 'Works without the services until its lease ends; what it has to say comes from its spool.';
