"""Which options record each command has."""

from collections.abc import Mapping

from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.options import (
    AgreeOptions,
    CreateOptions,
    DemoOptions,
    DoctorOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    ImportOptions,
    InstallOptions,
    LabelsOptions,
    ModelExportOptions,
    NoOptions,
    PlanOptions,
    PseudolabelOptions,
    RelinkOptions,
    ReportOptions,
    SegmentOptions,
    TrainOptions,
    UndoOptions,
)

#: The options record of each command that reads wsplf.toml.
COMMANDS: Mapping[str, type] = {
    "doctor": DoctorOptions,
    "labels": LabelsOptions,
    "pseudolabel": PseudolabelOptions,
    "train": TrainOptions,
    "segment": SegmentOptions,
    "evaluate": EvaluateOptions,
    "benchmark": BenchmarkOptions,
    "report": ReportOptions,
    "agree": AgreeOptions,
    "explain": ExplainOptions,
    "export": ExportOptions,
    "import": ImportOptions,
}

#: The options record of every command, by all of its words.
ALL: Mapping[str, type] = {
    **COMMANDS,
    "plan": PlanOptions,
    "demo": DemoOptions,
    "project create": CreateOptions,
    "project relink": RelinkOptions,
    "undo": UndoOptions,
    "scripts install": InstallOptions,
    "model list": NoOptions,
    "model show": NoOptions,
    "model export": ModelExportOptions,
    "model card": NoOptions,
}
