package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests by row; a nil registerer means that nobody looks.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	shed     *prometheus.CounterVec
	panics   prometheus.Counter
}

// Why requests are refused.
const (
	shedOverload = "overload"
	shedRate     = "rate_limit"
)

func newMetrics(reg prometheus.Registerer, running, waiting func() float64) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_http_requests_total", Help: "Requests answered, by endpoint and status.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_http_request_seconds", Help: "Time from the request's header to its answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 60},
		}, []string{"method", "route"}),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_http_shed_total", Help: "Requests refused by overload or a rate limit.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_http_panics_total", Help: "Handlers that panicked.",
		}),
	}
	for _, reason := range []string{shedOverload, shedRate} {
		m.shed.WithLabelValues(reason) // a rate over a counter needs its zero
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.shed, m.panics,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weft_http_requests_running", Help: "Requests being worked on, long polls excepted.",
			}, running),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weft_http_requests_waiting", Help: "Long polls being held.",
			}, waiting))
	}
	return m
}

func (m *metrics) done(e *endpoint, status int, took time.Duration) {
	m.requests.WithLabelValues(e.Method, e.label, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(e.Method, e.label).Observe(took.Seconds())
}
