-- What migration 0007 made room for.
update imprint.attempt set offline = true where run_id = 1 and attempt = 2;
