-- Sends the same request again and again and prints what came of it as one line of JSON.
-- The headers come by the environment, because command lines can be read by everybody.

wrk.headers["Authorization"] = os.getenv("BENCH_AUTHORIZATION")
wrk.headers["Host"] = os.getenv("BENCH_HOST")
wrk.headers["Accept"] = os.getenv("BENCH_ACCEPT")
-- A form to be sent, if any.
if os.getenv("BENCH_FORM") then
    wrk.method, wrk.body = "POST", os.getenv("BENCH_FORM")
    wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
