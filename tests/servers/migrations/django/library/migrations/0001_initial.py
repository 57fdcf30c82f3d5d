from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = [migrations.swappable_dependency(settings.AUTH_USER_MODEL)]
    operations = [
        migrations.CreateModel(
            "Author",
            [
                ("id", models.AutoField(primary_key=True)),
                ("name", models.CharField(max_length=80, unique=True)),
                ("born", models.CharField(max_length=10, null=True)),
            ],
        ),
        migrations.CreateModel(
            "Book",
            [
                ("id", models.AutoField(primary_key=True)),
                ("title", models.CharField(max_length=120, db_index=True)),
                ("slug", models.SlugField()),
                ("pages", models.CharField(max_length=12, default="0")),
                ("author", models.ForeignKey("library.Author", models.CASCADE)),
            ],
            options={"unique_together": {("slug", "author")}},
        ),
        migrations.CreateModel(
            "Loan",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("book", models.ForeignKey("library.Book", models.PROTECT, related_name="loans")),
                ("reader", models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)),
                ("lent", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
