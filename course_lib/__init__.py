"""course_lib: making Transformers smaller and faster, built by hand and measured.

The heavy libraries (torch, transformers, onnxruntime) are imported where they are used, so that
``import course_lib`` and ``course --help`` are instant.
"""

__version__ = "0.1.0"
