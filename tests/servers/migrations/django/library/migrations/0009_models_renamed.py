from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("library", "0008_plain_sql")]
    operations = [
        migrations.RunSQL("DROP MATERIALIZED VIEW library_thick"),
        migrations.RenameModel("Author", "Writer"),
        migrations.RenameField("Book", "author", "writer"),
        migrations.AlterModelTable("Tag", "library_words"),
        migrations.AlterField("Book", "tags", models.ManyToManyField("library.Tag", db_table="library_tagged")),
        migrations.AlterUniqueTogether("Book", set()),
        migrations.RenameIndex("Book", new_name="book_newest", old_name="book_new"),
        migrations.RemoveIndex("Book", "book_long"),
    ]
