import uuid

from django.db import migrations, models
from django.db.models.functions import Now, Random, Upper


class Migration(migrations.Migration):
    dependencies = [("library", "0009_models_renamed")]
    operations = [
        migrations.AddField(
            "Writer",
            "shown",
            models.GeneratedField(
                expression=Upper("name"), output_field=models.CharField(max_length=80), db_persist=True
            ),
        ),
        migrations.AddField("Book", "luck", models.FloatField(db_default=Random())),
        migrations.AddField("Book", "seen", models.DateTimeField(db_default=Now(), db_comment="when it's \"seen\"")),
        migrations.AddField("Loan", "number", models.UUIDField(default=uuid.uuid4, null=True)),
        migrations.AlterModelTableComment("Book", "what can be lent"),
    ]
