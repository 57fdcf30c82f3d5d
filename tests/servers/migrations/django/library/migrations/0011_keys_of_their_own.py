"""The usual three steps to a unique column, and a data migration among the alterations."""

import uuid

from django.db import migrations, models


def number(apps, _):
    for loan in apps.get_model("library", "Loan").objects.all():
        loan.number = uuid.uuid4()
        loan.save(update_fields=["number"])


class Migration(migrations.Migration):
    dependencies = [("library", "0010_computed_and_database_defaults")]
    operations = [
        migrations.RunPython(number, migrations.RunPython.noop),
        migrations.RunSQL("SET CONSTRAINTS ALL IMMEDIATE"),
        migrations.AlterField("Loan", "number", models.UUIDField(default=uuid.uuid4, unique=True)),
        migrations.RemoveField("Book", "notes"),
        migrations.AddField("Book", "notes", models.JSONField(null=True)),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL("ALTER TABLE library_log RENAME TO library_journal")]
        ),
    ]
