"""Added with a default, renamed, retyped, made to forbid NULL, all in one transaction."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("library", "0002_first_books")]
    operations = [
        migrations.AddField("Book", "bought", models.DateTimeField(default=django.utils.timezone.now)),
        migrations.AddField("Book", "notes", models.TextField(blank=True, default="")),
        migrations.AlterField("Book", "pages", models.IntegerField(default=0)),
        migrations.RenameField("Book", "title", "name"),
        migrations.AlterField("Author", "born", models.CharField(max_length=10, default="unknown")),
        migrations.AlterField("Author", "id", models.BigAutoField(primary_key=True)),
    ]
