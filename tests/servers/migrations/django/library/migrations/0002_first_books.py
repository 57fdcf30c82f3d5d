"""Rows through the models of this moment."""

from django.db import migrations


def fill(apps, _):
    Author, Book, Loan = (apps.get_model("library", name) for name in ("Author", "Book", "Loan"))
    reader = apps.get_model("auth", "User").objects.create(username="reader", email="reader@example.org")
    authors = [Author(name=f"Author {n}", born=str(1900 + n) if n % 4 else None) for n in range(12)]
    authors = Author.objects.bulk_create(authors)
    books = [
        Book(title=f"Book {n} \"of\" many", slug=f"book-{n}", pages=str(n * 7), author=authors[n % 12])
        for n in range(90)
    ]
    books = Book.objects.bulk_create(books)
    Loan.objects.bulk_create(Loan(book=book, reader=reader) for book in books[::5])


class Migration(migrations.Migration):
    dependencies = [("library", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
