"""Examples from lm-eval task files: find the file, pin the data set, render its rows."""

from __future__ import annotations

from microscope_bench.tasks.settings import TaskSettings
from microscope_bench.tasks.task import Task
from microscope_bench.tasks.task_files import builtin_task_dir, list_groups, list_tasks
from microscope_bench.tasks.task_loading import load_task, load_tasks

__all__ = ["Task", "TaskSettings", "builtin_task_dir", "list_groups", "list_tasks", "load_task", "load_tasks"]
