-- Renews passwords of registries, one registry after the other, and counts the answers that say that the change is in force.
-- BENCH_NAMES are the registries; BENCH_PATH is the path up to the name, BENCH_QUERY what follows it.

local threads = {}

function setup(thread)
    thread:set("number", #threads)
    table.insert(threads, thread)
end

function init(arguments)
    answered, complete = 0, 0
    paths = {}
    for name in os.getenv("BENCH_NAMES"):gmatch("%S+") do
        table.insert(paths, os.getenv("BENCH_PATH") .. name .. os.getenv("BENCH_QUERY"))
    end
    -- Each thread has registries of its own.
    place = number
    wrk.headers["Authorization"] = os.getenv("BENCH_AUTHORIZATION")
    wrk.headers["Content-Type"] = "application/json"
end

function request()
    place = (place + 2) % #paths
    return wrk.format("POST", paths[place + 1], nil, '{"name":"password"}')
end

function response(status, headers)
    answered = answered + 1
    for name, value in pairs(headers) do
        if value == "complete" and name:lower() == "x-wharfinger-propagation" then
            complete = complete + 1
        end
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    local all_answered, all_complete = 0, 0
    for _, thread in ipairs(threads) do
        all_answered = all_answered + thread:get("answered")
        all_complete = all_complete + thread:get("complete")
    end
    io.write(string.format(
        '{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d,"answered":%d,"complete":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout, all_answered, all_complete))
end
