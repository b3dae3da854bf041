"""Sample responses for people to compare: tasks for Label Studio, with their labelling config.

step2_reward/collect.sh --prompts prompts.txt --samples_per_prompt 4 --output tasks.json
"""

from training.arguments.collect import CollectArgs
from training.arguments.parsing import INTERRUPTED, parse_args


def main() -> None:
    args = parse_args(CollectArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.evaluation.annotation_tasks import Collector, write_tasks
    from training.evaluation.annotation_upload import Upload
    from training.runtime import process

    with process.run_tool(args) as device:
        upload = Upload(args)
        collector = Collector(args, device)
        collection = collector.run()
        files = write_tasks(args, collection)
        collector.delete_progress()

        for kind, tasks in collection.tasks.items():
            print(f"{len(tasks)} {kind} tasks")
        if collection.skipped_prompts:
            skipped = collection.skipped_prompts
            print(f"{skipped} prompts left out: fewer than two distinct responses")
        print("written:", *files)
        for line in upload.run():
            print(line)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
