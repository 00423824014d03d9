-- Users' tokens: one that is good, one that has ended, one that was revoked.
insert into imprint.token (name, sha256, scopes, expires_at, revoked_at, last_used_at) values
    ('good', sha256('good'), '{read,submit}', now() + interval '90 days', null, now()),
    ('expired', sha256('expired'), '{read}', now() - interval '1 day', null, null),
    ('revoked', sha256('revoked'), '{read,submit,write}', null, now(), null);
