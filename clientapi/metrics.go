package clientapi

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the component's bounds are about. Without a registerer the
// counters count for nobody.
type metrics struct {
	tokenHits, tokenMisses prometheus.Counter
	passwords              prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, cached func() float64) *metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_clientapi_token_lookups_total", Help: "Access tokens looked up, by whether the cache had them."}, []string{"cache"})
	m := &metrics{tokenHits: lookups.WithLabelValues("hit"), tokenMisses: lookups.WithLabelValues("miss"),
		passwords: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_clientapi_password_hashes_total", Help: "Passwords hashed: each takes the memory of PasswordCost for its time."})}
	if reg != nil {
		reg.MustRegister(lookups, m.passwords, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weft_clientapi_cached_sessions", Help: "Sessions in the cache of access tokens."}, cached))
	}
	return m
}
