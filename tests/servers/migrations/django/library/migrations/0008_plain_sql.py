from django.db import migrations

FORWARD = """
CREATE TABLE library_log (id bigserial PRIMARY KEY, what text NOT NULL, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION library_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO library_log (what) VALUES (TG_OP || ' ' || COALESCE(NEW.name, ''));
    RETURN NEW;
END $$;
CREATE TRIGGER noted AFTER UPDATE ON library_book FOR EACH ROW EXECUTE FUNCTION library_note();
CREATE MATERIALIZED VIEW library_thick AS SELECT id, name, pages FROM library_book WHERE pages > 200;
UPDATE library_book SET facts = jsonb_build_object('pages', pages, 'quote', 'it''s; "so"') WHERE id % 3 = 0;
"""


class Migration(migrations.Migration):
    dependencies = [("library", "0007_indexes_of_postgres")]
    operations = [
        migrations.RunSQL(FORWARD),
        migrations.RunSQL([("UPDATE library_book SET notes = %s WHERE pages < %s", ["thin; -- not a comment", 50])]),
    ]
