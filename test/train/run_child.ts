// A training process for tests that kill it: prints "saved N" after each acknowledged checkpoint.
//   node --import tsx run_child.ts DIR MAX_STEPS
import { tinyTrainer } from './fixture.js';

const [outputDir, maxSteps] = process.argv.slice(2) as [string, string];
const trainer = await tinyTrainer(
  {
    outputDir,
    maxSteps: Number(maxSteps),
    saveSteps: 3,
    resumeFromCheckpoint: true,
    handleSignals: true,
  },
  {
    callbacks: [
      { onSave: (_folder, state) => void process.stdout.write(`saved ${state.step}\n`) },
      { onStepEnd: (state) => void process.stdout.write(`step ${state.step}\n`) },
    ],
  },
);
const result = await trainer.train();
if (result.interrupted) process.exitCode = 75;
