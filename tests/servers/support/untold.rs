//! Statements between which nothing tells of changes.

/// Nothing tells of what runs between the two.
pub const OFF: &str = "DO $$DECLARE t text; BEGIN FOR t IN SELECT evtname FROM pg_event_trigger WHERE evtname ~ '^!backwhen' LOOP
    EXECUTE format('ALTER EVENT TRIGGER %I DISABLE', t); END LOOP; END$$;";
pub const ON: &str = "DO $$DECLARE t text; BEGIN FOR t IN SELECT evtname FROM pg_event_trigger WHERE evtname ~ '^!backwhen' LOOP
    EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', t); END LOOP; END$$;";
