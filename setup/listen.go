package setup

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
)

const (
	readHeaderTimeout = 15 * time.Second
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 64 << 10
	// maxConnections bounds the open connections of a listener; more wait.
	maxConnections = 32768
)

// listening is the set of open listeners and the servers on them.
type listening struct {
	log     logrus.FieldLogger
	servers []*http.Server
	done    sync.WaitGroup
	failed  chan error
	// ending: each answer asks the client to leave its connection.
	ending atomic.Bool
}

func newListening(log logrus.FieldLogger) *listening {
	return &listening{log: log, failed: make(chan error, 16)}
}

// open binds an address; connections wait until serve.
func open(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// serve answers requests on l until stop. A certificate makes it HTTPS.
func (s *listening) serve(l net.Listener, cert *certificate, h http.Handler) {
	// Clients that break connections are no news; what the server does wrong
	// is logged by the handler.
	w := &lineLog{log: s.log}
	srv := &http.Server{
		Handler: s.leaving(h), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: stdlog.New(w, "", 0),
	}
	if cert != nil {
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	}
	s.servers = append(s.servers, srv)
	l = netutil.LimitListener(l, maxConnections)
	s.done.Go(func() {
		var err error
		if cert != nil {
			err = srv.ServeTLS(l, "", "")
		} else {
			err = srv.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("listener %s: %w", l.Addr(), err)
		}
	})
}

// end begins to free connections: of those that are kept open, each is closed after its next answer, which says so (in HTTP/2
// by GOAWAY). So hardly any is left for stop to close just when a client sends something.
func (s *listening) end() { s.ending.Store(true) }

func (s *listening) leaving(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.ending.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// stop takes no more connections, calls closed, lets the requests end, and closes what has
// not ended when ctx does.
func (s *listening) stop(ctx context.Context, closed func()) error {
	s.end()
	var wait sync.WaitGroup
	errs := make([]error, len(s.servers))
	for i, srv := range s.servers {
		srv.RegisterOnShutdown(closed)
		wait.Go(func() {
			if err := srv.Shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("requests were cut off: %w", errors.Join(err, srv.Close()))
			}
		})
	}
	wait.Wait()
	s.done.Wait()
	return errors.Join(errs...)
}

// lineLog is an io.Writer for the standard library's logger.
type lineLog struct{ log logrus.FieldLogger }

func (l *lineLog) Write(p []byte) (int, error) {
	l.log.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}

// baseURL gives the base URL of a listener's address.
func baseURL(l net.Addr, secure bool) string {
	if secure {
		return "https://" + l.String()
	}
	return "http://" + l.String()
}
