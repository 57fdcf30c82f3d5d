from django.db import migrations, models


def tag(apps, _):
    Book, Tag = apps.get_model("library", "Book"), apps.get_model("library", "Tag")
    tags = Tag.objects.bulk_create([Tag(word=word) for word in ("old", "thick", "lent")])
    for book in Book.objects.filter(pages__gt=300):
        book.tags.add(tags[1], tags[book.pk % 2 * 2])


class Migration(migrations.Migration):
    dependencies = [("library", "0003_fields_change")]
    operations = [
        migrations.CreateModel(
            "Tag",
            [("id", models.BigAutoField(primary_key=True)), ("word", models.CharField(max_length=20, unique=True))],
        ),
        migrations.AddField("Book", "tags", models.ManyToManyField("library.Tag", related_name="books")),
        migrations.RunPython(tag, migrations.RunPython.noop),
    ]
