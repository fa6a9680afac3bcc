package setup

import (
	"context"
	"encoding/json"
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

// adminHandler serves what is for the operator's eyes: metrics, health and
// profiles.
func adminHandler(reg *prometheus.Registry, log logrus.FieldLogger, check func(context.Context) error) http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	m.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		status, body := http.StatusOK, map[string]string{"status": "ok"}
		if err := check(ctx); err != nil {
			log.WithError(err).Error("health check failed")
			status, body = http.StatusServiceUnavailable, map[string]string{"status": "failed", "error": err.Error()}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(body); err != nil {
			log.WithError(err).Debug("health answer not written")
		}
	})
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return m
}
