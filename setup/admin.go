package setup

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
)

// healthTimeout bounds a health check: a database that does not answer within
// it counts as broken.
const healthTimeout = 5 * time.Second

// errStopping is what a health check says of a process that was told to stop.
var errStopping = errors.New("the server is stopping")

// adminHandler serves what is for the operator's eyes: metrics, health and
// profiles. /health tells balancers whether to send requests here, /health/live tells a supervisor that a restart would not help:
// it asks nothing but this process.
func adminHandler(reg *prometheus.Registry, log logrus.FieldLogger, check func(context.Context) error) http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	m.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		switch err := check(ctx); {
		case err == nil:
			writeHealth(w, log, http.StatusOK, map[string]string{"status": "ok"})
		case errors.Is(err, errStopping):
			writeHealth(w, log, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
		default:
			log.WithError(err).Error("health check failed")
			writeHealth(w, log, http.StatusServiceUnavailable, map[string]string{"status": "failed", "error": err.Error()})
		}
	})
	m.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, log, http.StatusOK, map[string]string{"status": "ok"})
	})
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return m
}

func writeHealth(w http.ResponseWriter, log logrus.FieldLogger, status int, body map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.WithError(err).Debug("health answer not written")
	}
}
