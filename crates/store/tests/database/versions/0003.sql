-- What migration 0003 made room for, on top of version 2: an analysis of the readings that there are.
insert into imprint.analysis
    (run_id, preset, span, max_window_steps, version, attempt, next_reading)
values (1, 'paper', 'target', 50, 1, 2, 71), (1, 'code', 'target', 50, 1, 1, 20);
insert into imprint.analysis_result
    (run_id, preset, span, max_window_steps, arm, depth, fit, kind, n_points, decay_a,
     decay_a_ci95_low, decay_a_ci95_high, intercept, r2, r2_linear, threshold_log10_steps,
     threshold_log10_tokens, threshold_log10_tokens_ci95_low, threshold_log10_tokens_ci95_high)
values
    (1, 'paper', 'target', 50, 'once', 0, 'ratio of means, raw, log-binned', 'robust', 9, 0.2, 0.1,
     0.3, 0.9, 0.95, 0.5, 4.5, 7.5, 7.25, null),
    (1, 'code', 'target', 50, 'once', 0, 'mean of ratios (IQR 2.0), raw, every step', 'published', 40,
     0.25, null, null, 0.9, 0.9, 0.5, 3.6, 6.6, null, null);
