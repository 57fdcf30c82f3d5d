"""Outside of a transaction: indexes made CONCURRENTLY, a constraint validated later."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("library", "0006_extensions")]
    operations = [
        AddIndexConcurrently("Book", GinIndex(fields=["facts"], name="book_facts")),
        AddIndexConcurrently("Book", GinIndex(fields=["name"], opclasses=["gin_trgm_ops"], name="book_like")),
        AddConstraintNotValid("Book", models.CheckConstraint(condition=~Q(name=""), name="book_named")),
        ValidateConstraint("Book", "book_named"),
        migrations.AddConstraint(
            "Loan",
            ExclusionConstraint(
                name="lent_once", expressions=[("book", RangeOperators.EQUAL), ("during", RangeOperators.OVERLAPS)]
            ),
        ),
    ]
