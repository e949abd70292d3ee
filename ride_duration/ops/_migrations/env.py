"""Run by Alembic for every migration: on the connection it is handed, whose transaction is not ours to end."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table=context.config.attributes["version_table"])
context.run_migrations()
