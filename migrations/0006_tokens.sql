-- Tokens of people and their programs.

create table imprint.token (
    token_id int4 generated always as identity primary key,
    name text not null check (name <> ''),
    sha256 bytea not null unique check (octet_length(sha256) = 32),
    scopes text[] not null
        check (cardinality(scopes) > 0 and scopes <@ array['read', 'submit', 'write']),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
-- A name is free again when its token was revoked.
create unique index token_name on imprint.token (name) where revoked_at is null;
comment on table imprint.token is 'Tokens of users: what is kept of a secret is its hash.';
comment on column imprint.token.token_id is 'Numbered as they are made.';
comment on column imprint.token.created_at is 'When it was made.';
comment on column imprint.token.revoked_at is 'No longer good from then on; null while it was not revoked.';
comment on column imprint.token.name is 'Chosen when it was made; of tokens that were not revoked each has its own.';
comment on column imprint.token.sha256 is 'SHA-256 of the token, which has 256 random bits.';
comment on column imprint.token.scopes is 'What it is good for: read, submit, write.';
comment on column imprint.token.expires_at is 'No longer good from then on; null for never.';
comment on column imprint.token.last_used_at is 'To the hour: a call within an hour of the last one noted is not noted.';

-- Nobody who only reads the readings needs to know who may do what.
do $$
begin
    if exists (select from pg_roles where rolname = 'imprint_reader') then
        revoke all on imprint.token from imprint_reader;
    end if;
end $$;
