"""A many-to-many that gets a model of its own; a model that goes."""

from django.db import migrations, models


def move(apps, _):
    Reading = apps.get_model("library", "Reading")
    loans = apps.get_model("library", "Loan").objects.values_list("book_id", "reader_id")
    Reading.objects.bulk_create(Reading(book_id=book, reader_id=reader, stars=book % 6) for book, reader in loans)


class Migration(migrations.Migration):
    dependencies = [("library", "0011_keys_of_their_own"), ("auth", "0012_alter_user_first_name_max_length")]
    operations = [
        migrations.RunSQL("CREATE OR REPLACE FUNCTION library_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO library_journal (what) VALUES (NEW.name); RETURN NEW; END $$"),
        migrations.CreateModel(
            "Reading",
            [
                ("pk", models.CompositePrimaryKey("book", "reader", primary_key=True)),
                ("book", models.ForeignKey("library.Book", models.CASCADE)),
                ("reader", models.ForeignKey("auth.User", models.CASCADE)),
                ("stars", models.PositiveSmallIntegerField(db_default=0)),
            ],
        ),
        migrations.RunPython(move, migrations.RunPython.noop),
        migrations.RunSQL("SET CONSTRAINTS ALL IMMEDIATE"),
        migrations.DeleteModel("Loan"),
        migrations.RunSQL("UPDATE library_book SET pages = pages + 1 WHERE id % 7 = 0"),
        migrations.RemoveField("Book", "tags"),
        migrations.DeleteModel("Tag"),
    ]
