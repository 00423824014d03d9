-- The image of Postgres runs this once, when its volume is new (docker-compose.yml).
-- What the services, and `imprint` on the host, log in as: it changes rows and no tables.
\getenv password IMPRINT_SERVICE_PASSWORD
create role imprint_writer;
create role imprint_reader;
create role imprint_service login password :'password' in role imprint_writer, imprint_reader;
