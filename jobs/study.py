"""Run a blind user study: a page to vote on, and tables of the votes as the papers print them.

python jobs/study.py --evaluations runs/evaluation-a runs/evaluation-b --out runs/study
python jobs/study.py --evaluations runs/evaluation-a --kind single --out runs/study-single
python jobs/study.py --evaluations runs/evaluation-a runs/evaluation-b --out runs/study --summarise

In the kind "paired", a person sees two methods' composites side by side and chooses the more
natural one. In the kind "single", a person says whether one image is a real photograph. The page
runs until Ctrl-C, and the count is printed then. Started again, the study keeps its votes.
"""

from collections.abc import Sequence

from infill.pipeline import user_study
from infill.pipeline.commands import typed
from infill.pipeline.config import parse_one, run
from infill.pipeline.job_summary import announce, announce_start, report_results
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.user_study import StudyConfig


def main(words: Sequence[str] | None = None) -> None:
    """Prepare the study, serve its page until Ctrl-C, and print the counts."""
    config = parse_one(StudyConfig, __doc__ or "", words)
    announce_start(f"study of {', '.join(config.evaluations)}: reading the composites")
    study = user_study.prepare(config)
    if not config.summarise:
        announce(
            f"study of {', '.join(study.methods)}: {len(study.questions)} questions, "
            f"{config.questions_per_voter} for each person",
            out=study.out,
            resumes=f"with {given} votes" if (given := len(user_study.read_votes(study))) else "",
        )
        print(f"vote at http://{config.host}:{config.port}/ (Ctrl-C ends it)", flush=True)
        import uvicorn

        from infill.pipeline.serving.http.door import bound_uvicorn

        bound_uvicorn(LimitsConfig())
        app = user_study.make_app(study, config.questions_per_voter)
        uvicorn.run(app, host=config.host, port=config.port, log_level="warning")
    votes = user_study.read_votes(study)
    counted = user_study.count(study, votes, config.least_ms, config.seed)
    print(user_study.terminal_tables(study, counted))
    words = ["--evaluations", *config.evaluations, "--kind", config.kind, "--out", config.out]
    if config.baselines:
        words += ["--baselines", *config.baselines]
    report_results(
        {"page": user_study.write_summary(study, counted)},
        typed("study", *words, *([] if config.summarise else ["--summarise"])),
    )


if __name__ == "__main__":
    run(main)
