-- What migration 0002 made room for, on top of version 1.
update imprint.run set settled = '{"global_step": 1000}' where run_id = 1;
update imprint.attempt set threads = 8 where run_id = 1 and attempt = 2;
