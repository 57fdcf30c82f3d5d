from django.db import migrations, models
from django.db.models import F, Q
from django.db.models.functions import Lower


class Migration(migrations.Migration):
    dependencies = [("library", "0004_many_to_many")]
    operations = [
        migrations.AddIndex("Book", models.Index(F("bought").desc(), "pages", name="book_new")),
        migrations.AddIndex("Book", models.Index("slug", name="book_long", condition=Q(pages__gt=100), include=["pages"])),
        migrations.AddConstraint("Book", models.CheckConstraint(condition=Q(pages__gte=0), name="pages_counted")),
        migrations.AddConstraint("Author", models.UniqueConstraint(Lower("name"), name="author_once")),
        migrations.AddConstraint(
            "Tag", models.UniqueConstraint(fields=["word"], name="word_once", deferrable=models.Deferrable.DEFERRED)
        ),
        migrations.AlterUniqueTogether("Book", {("slug", "author", "name")}),
        migrations.AlterField("Book", "slug", models.SlugField(max_length=200, db_index=False)),
    ]
