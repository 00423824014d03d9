-- What migration 0009 made room for.
update imprint.run set priority = 3 where run_id = 1;
insert into imprint.job (run_id, job, executor, slot, request_id, external_id, alive_at, ended_at,
                         outcome)
values (1, 1, 'local', 0, 'request 1', 'host:12', now(), now(), 'ended with exit code 0');
update imprint.attempt set job = 1, record = '{"program": "imprint-trainer"}' where run_id = 1;
insert into imprint.event (run_id, event, kind, job, detail)
values (1, 100, 'job_ended', 1, 'ended with exit code 0');
