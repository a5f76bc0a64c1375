"""What every adapter of `roots bench` answers: one JSON request per line on standard input, one JSON answer per line.

{"prepare": SPEC} -> {"ready": milliseconds of the first call} or {"error": text}; {"run": repeat} -> {"ms": milliseconds per call}.
SPEC names an operation and its sizes (lib/bench/cases.ts). The first line, unasked, says who answers.
"""
import json
import sys
import time

WARM_SECONDS = 0.01  # of every turn: threads wake, caches fill; not timed


def answer(value):
    print(json.dumps(value), flush=True)


def serve(name, version, settings, prepare):
    """prepare(SPEC) makes the operands and returns what one call is."""
    answer({"name": name, "version": version, "settings": settings})
    call = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                call = prepare(request["prepare"])
                start = time.perf_counter()
                call()
                answer({"ready": (time.perf_counter() - start) * 1000})
            else:
                repeat = request["run"]
                start = time.perf_counter()
                while time.perf_counter() - start < WARM_SECONDS:
                    call()
                start = time.perf_counter()
                for _ in range(repeat):
                    call()
                answer({"ms": (time.perf_counter() - start) * 1000 / repeat})
        except Exception as error:  # a peer without an operation is named as such, the run goes on
            answer({"error": f"{type(error).__name__}: {error}"})
