"""The first tables."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_study_uid"), ["study_uid"], unique=False)

    op.create_table(
        "circuits",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("open_until", db.clock.Moment(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_circuits")),
    )
    op.create_table(
        "network_versions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("first_loaded_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_network_versions")),
    )
    op.create_table(
        "studies",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("phantom", sa.Boolean(), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=False),
        sa.Column("patient_birth_date", sa.String(length=16), nullable=False),
        sa.Column("patient_sex", sa.String(length=16), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=16), nullable=False),
        sa.Column("study_description", sa.Text(), nullable=False),
        sa.Column("first_received_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("last_received_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_studies")),
    )
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_studies_accession_number"), ["accession_number"], unique=False)
        batch_op.create_index(batch_op.f("ix_studies_last_received_at"), ["last_received_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_studies_patient_id"), ["patient_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_studies_state"), ["state"], unique=False)

    op.create_table(
        "training_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("artefact", sa.Text(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("ended_at", db.clock.Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=96), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("rung_at", db.clock.Moment(), nullable=True),
        sa.Column("lease_until", db.clock.Moment(), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("done_at", db.clock.Moment(), nullable=True),
        sa.ForeignKeyConstraint(["study_uid"], ["studies.study_uid"], name=op.f("fk_jobs_study_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_jobs_kind_subject")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_jobs_study_uid"), ["study_uid"], unique=False)
        batch_op.create_index(
            "ix_jobs_unfinished",
            ["kind", "state", "due_at"],
            unique=False,
            sqlite_where=sa.text("(state NOT IN ('done'))"),
            postgresql_where=sa.text("(state NOT IN ('done'))"),
        )
        batch_op.create_index(
            "ix_jobs_waiting",
            ["kind", "due_at"],
            unique=False,
            sqlite_where=sa.text("state = 'waiting'"),
            postgresql_where=sa.text("state = 'waiting'"),
        )

    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.ForeignKeyConstraint(["study_uid"], ["studies.study_uid"], name=op.f("fk_reports_study_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
        sa.UniqueConstraint("study_uid", "revision", name=op.f("uq_reports_study_uid_revision")),
    )
    op.create_table(
        "series",
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("series_description", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_uid"], ["studies.study_uid"], name=op.f("fk_series_study_uid")),
        sa.PrimaryKeyConstraint("series_uid", name=op.f("pk_series")),
    )
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_series_study_uid"), ["study_uid"], unique=False)

    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("report_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sent_at", db.clock.Moment(), nullable=True),
        sa.Column("final_at", db.clock.Moment(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"], name=op.f("fk_deliveries_report_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("report_id", "destination", name=op.f("uq_deliveries_report_id_destination")),
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_deliveries_destination"), ["destination"], unique=False)

    op.create_table(
        "instances",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("received_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.Column("view", sa.String(length=16), nullable=False),
        sa.Column("prepared", sa.Boolean(), nullable=False),
        sa.Column("prepared_path", sa.Text(), nullable=False),
        sa.Column("pixel_hash", sa.String(length=64), nullable=False),
        sa.Column("not_assessed_because", sa.Text(), nullable=True),
        sa.Column("broken", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["series_uid"], ["series.series_uid"], name=op.f("fk_instances_series_uid")),
        sa.ForeignKeyConstraint(["study_uid"], ["studies.study_uid"], name=op.f("fk_instances_study_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_instances")),
    )
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instances_study_uid"), ["study_uid"], unique=False)

    op.create_table(
        "report_objects",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("report_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"], name=op.f("fk_report_objects_report_id")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_report_objects")),
    )
    with op.batch_alter_table("report_objects", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_report_objects_report_id"), ["report_id"], unique=False)

    op.create_table(
        "findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("pixel_hash", sa.String(length=64), nullable=False),
        sa.Column("network_digest", sa.String(length=64), nullable=False),
        sa.Column("preprocessing", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=32), nullable=False),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("ood", sa.Double(), nullable=False),
        sa.Column("heat", sa.JSON(), nullable=False),
        sa.Column("created_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["network_digest"], ["network_versions.digest"], name=op.f("fk_findings_network_digest")
        ),
        sa.ForeignKeyConstraint(["uid"], ["instances.uid"], name=op.f("fk_findings_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint(
            "uid",
            "pixel_hash",
            "network_digest",
            "preprocessing",
            name=op.f("uq_findings_uid_pixel_hash_network_digest_preprocessing"),
        ),
    )
    op.create_table(
        "variants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sender_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["instances.uid"], name=op.f("fk_variants_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variants")),
        sa.UniqueConstraint(
            "uid", "study_uid", "pixel_digest", name=op.f("uq_variants_uid_study_uid_pixel_digest")
        ),
    )
    with op.batch_alter_table("variants", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_variants_uid"), ["uid"], unique=False)

    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=32), nullable=False),
        sa.Column("author", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("supersedes", sa.Integer(), nullable=True),
        sa.Column("created_at", db.clock.Moment(), server_default=db.clock.now(), nullable=False),
        sa.ForeignKeyConstraint(["supersedes"], ["verdicts.id"], name=op.f("fk_verdicts_supersedes")),
        sa.ForeignKeyConstraint(["uid"], ["instances.uid"], name=op.f("fk_verdicts_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
    )
    with op.batch_alter_table("verdicts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdicts_uid"), ["uid"], unique=False)


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("verdicts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_verdicts_uid"))

    op.drop_table("verdicts")
    with op.batch_alter_table("variants", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_variants_uid"))

    op.drop_table("variants")
    op.drop_table("findings")
    with op.batch_alter_table("report_objects", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_report_objects_report_id"))

    op.drop_table("report_objects")
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_instances_study_uid"))

    op.drop_table("instances")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_deliveries_destination"))

    op.drop_table("deliveries")
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_series_study_uid"))

    op.drop_table("series")
    op.drop_table("reports")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_jobs_waiting",
            sqlite_where=sa.text("state = 'waiting'"),
            postgresql_where=sa.text("state = 'waiting'"),
        )
        batch_op.drop_index(
            "ix_jobs_unfinished",
            sqlite_where=sa.text("(state NOT IN ('done'))"),
            postgresql_where=sa.text("(state NOT IN ('done'))"),
        )
        batch_op.drop_index(batch_op.f("ix_jobs_study_uid"))

    op.drop_table("jobs")
    op.drop_table("training_runs")
    with op.batch_alter_table("studies", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_studies_state"))
        batch_op.drop_index(batch_op.f("ix_studies_patient_id"))
        batch_op.drop_index(batch_op.f("ix_studies_last_received_at"))
        batch_op.drop_index(batch_op.f("ix_studies_accession_number"))

    op.drop_table("studies")
    op.drop_table("network_versions")
    op.drop_table("circuits")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_study_uid"))

    op.drop_table("audit")
