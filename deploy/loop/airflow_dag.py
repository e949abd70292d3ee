"""The loop once a day, by Airflow: put it into the DAGs folder of workers that share the home folder's disk."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "ride_duration_cycle",
    schedule="17 6 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # the loop itself knows which month is next
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10), "retry_exponential_backoff": True},
):
    BashOperator(
        task_id="cycle",
        # 50: a person is to repair a month's data; they were told, and trying again would change nothing
        bash_command="cd /srv/ride-duration && venv/bin/ride-duration cycle --fleet green --wait 3600 || [ $? -eq 50 ]",
        env={"RIDE_DURATION_HOME": "/srv/ride-duration/home"},
        append_env=True,
    )
