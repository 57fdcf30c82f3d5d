-- The application's own event trigger changes definitions too, before ours hears of anything.
CREATE FUNCTION public.set_up() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN set_up_at timestamptz DEFAULT now()', made.object_identity);
        EXECUTE format('COMMENT ON TABLE %s IS ''set up''', made.object_identity);
    END LOOP;
END $$;
CREATE EVENT TRIGGER a_set_up ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.set_up();
ALTER EVENT TRIGGER a_set_up ENABLE ALWAYS;
