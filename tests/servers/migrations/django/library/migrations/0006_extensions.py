from django.contrib.postgres.fields import ArrayField, DateRangeField, HStoreField
from django.contrib.postgres.operations import BtreeGistExtension, CITextExtension, HStoreExtension, TrigramExtension
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("library", "0005_indexes_and_constraints")]
    operations = [
        HStoreExtension(),
        TrigramExtension(),
        BtreeGistExtension(),
        CITextExtension(),
        migrations.AddField("Book", "other_names", ArrayField(models.CharField(max_length=40), default=list)),
        migrations.AddField("Book", "traits", HStoreField(null=True)),
        migrations.AddField("Book", "facts", models.JSONField(default=dict)),
        migrations.AddField("Loan", "during", DateRangeField(null=True)),
    ]
