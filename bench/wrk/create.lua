-- Creates registries, each with a name that nobody had before, and counts those that were in force when the answer came.
-- BENCH_PATH is the path up to the name; BENCH_PREFIX begins every name of this run.

local threads = {}

function setup(thread)
    thread:set("number", #threads)
    table.insert(threads, thread)
end

function init(arguments)
    made, created, complete = 0, 0, 0
    path = os.getenv("BENCH_PATH")
    query = os.getenv("BENCH_QUERY")
    prefix = os.getenv("BENCH_PREFIX") .. "t" .. number .. "n"
    body = os.getenv("BENCH_BODY")
    wrk.headers["Authorization"] = os.getenv("BENCH_AUTHORIZATION")
    wrk.headers["Content-Type"] = "application/json"
end

function request()
    made = made + 1
    return wrk.format("PUT", path .. prefix .. made .. query, nil, body)
end

function response(status, headers)
    if status == 201 then
        created = created + 1
    end
    for name, value in pairs(headers) do
        if value == "complete" and name:lower() == "x-wharfinger-propagation" then
            complete = complete + 1
        end
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    local all_created, all_complete = 0, 0
    for _, thread in ipairs(threads) do
        all_created = all_created + thread:get("created")
        all_complete = all_complete + thread:get("complete")
    end
    io.write(string.format(
        '{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d,"created":%d,"complete":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout, all_created, all_complete))
end
