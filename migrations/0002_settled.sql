-- What a configuration leaves open and its first attempt settles.

alter table imprint.run add column settled jsonb;
comment on column imprint.run.settled is 'What the configuration left open, as the first attempt settled it for all: the checkpoint''s global step and tokens, the schedule with its end in steps, the rows of a micro-batch.';

alter table imprint.attempt add column threads int4 not null default 1;
comment on column imprint.attempt.threads is 'Threads of a trainer on the CPU.';
comment on column imprint.attempt.machine is 'Processor and its features: equal machines give equal bits.';
comment on column imprint.attempt.device is 'cpu or cuda:N.';
