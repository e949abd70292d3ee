"""Answers, and how the rides ended. Both lie in the order of time, so that the last hour of a long log is read without looking at the rest."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    sqlite = op.get_context().dialect.name == "sqlite"
    instant = sa.BigInteger() if sqlite else sa.TIMESTAMP(timezone=True)  # SQLite: microseconds since 1970
    local = sa.BigInteger() if sqlite else sa.TIMESTAMP()
    op.create_table(
        "answer",
        sa.Column("answered_at", instant, nullable=False),
        sa.Column("ride_id", sa.Text, nullable=False),
        sa.Column("fleet", sa.Text, nullable=False),
        sa.Column("regime", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("pickup", sa.SmallInteger, nullable=False),
        sa.Column("dropoff", sa.SmallInteger, nullable=False),
        sa.Column("pickup_at", local, nullable=False),
        sa.Column("miles", sa.Double),
        sa.Column("minutes", sa.Double, nullable=False),
        sa.Column("low", sa.Double, nullable=False),
        sa.Column("high", sa.Double, nullable=False),
        sa.Column("flags", sa.Text, nullable=False),
        sa.Column("shadow_version", sa.Text),
        sa.Column("shadow_minutes", sa.Double),
        sa.Column("shadow_low", sa.Double),
        sa.Column("shadow_high", sa.Double),
        sa.Column("latency_ms", sa.Double),
        sa.Column("experiment", sa.Integer),
        sa.PrimaryKeyConstraint("answered_at", "ride_id"),
        sa.UniqueConstraint("ride_id", name="one_answer_a_ride"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "completion",
        sa.Column("answered_at", instant, nullable=False),
        sa.Column("ride_id", sa.Text, nullable=False),
        sa.Column("minutes", sa.Double, nullable=False),
        sa.Column("at", instant, nullable=False),
        sa.PrimaryKeyConstraint("answered_at", "ride_id"),
        sa.ForeignKeyConstraint(["answered_at", "ride_id"], ["answer.answered_at", "answer.ride_id"], ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
