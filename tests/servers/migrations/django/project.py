"""A Django project on the database that a connection string names, whose migrations wait for a word.

Prints the names of all migrations in their order, then applies each when its name is given on
standard input, as `manage.py migrate APP NAME` does, and answers `applied NAME`.
"""

import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor


def configure(conninfo):
    parts = dict(part.split("=", 1) for part in conninfo.split())
    settings.configure(
        INSTALLED_APPS=[
            *(f"django.contrib.{app}" for app in ("contenttypes", "auth", "admin", "messages", "sessions")),
            *(f"django.contrib.{app}" for app in ("sites", "flatpages", "redirects", "postgres")),
            "library",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": parts["host"],
                "PORT": parts["port"],
                "USER": parts["user"],
                "NAME": parts["dbname"],
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        SECRET_KEY="of a test",
        SITE_ID=1,
        USE_TZ=True,
    )
    django.setup()


def main():
    configure(sys.argv[1])
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    print(*(f"{migration.app_label}.{migration.name}" for migration, _ in plan), flush=True)
    for line in sys.stdin:
        app, name = line.strip().split(".", 1)
        call_command("migrate", app, name, verbosity=0, interactive=False)
        print(f"applied {app}.{name}", flush=True)


main()
