-- What a server asks for at the start of a connection, and PgBouncer does not pass on. Run once, as a role that may.
-- Where ENROLLMENT_LOCK_TIMEOUT_MS or ENROLLMENT_STATEMENT_TIMEOUT_MS are set, they belong here.
ALTER ROLE enrollment_app SET search_path = public, pg_temp;
ALTER ROLE enrollment_app SET lock_timeout = '5s';
ALTER ROLE enrollment_app SET statement_timeout = '20s';
ALTER ROLE enrollment_app SET idle_in_transaction_session_timeout = '2s';
ALTER ROLE enrollment_app SET plan_cache_mode = force_generic_plan;
ALTER ROLE enrollment_app SET jit = off;
ALTER ROLE enrollment_app SET random_page_cost = 1.1;
