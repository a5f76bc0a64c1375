import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 60_000,
    // leak tests collect earlier garbage first
    execArgv: ['--expose-gc'],
    // two cores: more forks would only take turns
    maxWorkers: 2,
  },
});
