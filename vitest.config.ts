import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 60_000,
    // leak tests collect earlier garbage first
    // (worker threads take the flag of their process and refuse one of their own)
    execArgv: process.execArgv.includes('--expose-gc') ? [] : ['--expose-gc'],
    // two cores: more forks would only take turns
    maxWorkers: 2,
  },
});
