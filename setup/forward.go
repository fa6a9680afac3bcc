package setup

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/bus/natsbus"
	"weft/internal/httpapi"
	"weft/internal/rpc"
	"weft/matrix/merr"
)

// headerClient names the client in a request that is handed on. Only processes of the server can send it.
const headerClient = "Weft-Client-Address"

const (
	forwardDial    = 2 * time.Second
	forwardStreams = 16384 // of one connection between two processes: as many as there may be sleeping requests
	forwardRetry   = 250 * time.Millisecond
)

// handover is how requests go from a process that does not run their component to one that does: HTTP/2 with the identity that
// the processes share.
type handover struct {
	server    *http.Server
	address   string
	transport *http.Transport
}

// startHandover listens for the requests that others hand on.
func (s *Server) startHandover(ctx context.Context, identity []byte) (*handover, error) {
	towards, err := natsbus.TLSConfig(identity)
	if err != nil {
		return nil, err
	}
	listen := s.cfg.Cluster.HTTPListen
	if listen == "" {
		host := s.cfg.hostTowardsDatabase()
		if h, _, err := net.SplitHostPort(s.cfg.Cluster.Listen); err == nil && h != "" {
			host = h
		}
		listen = net.JoinHostPort(host, "0")
	}
	l, err := open(ctx, listen)
	if err != nil {
		return nil, fmt.Errorf("cluster.http_listen: %w", err)
	}
	h := &handover{
		address: l.Addr().String(),
		transport: &http.Transport{
			DialTLSContext: dialTo(towards), ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 3 * time.Second},
		},
		server: &http.Server{
			TLSConfig: towards.Clone(), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
			ErrorLog: stdlog.New(&lineLog{log: s.part("http")}, "", 0),
			HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: forwardStreams},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				address := r.Header.Get(headerClient)
				r.Header.Del(headerClient)
				s.root.ServeHTTP(w, httpapi.Forwarded(r, address))
			}),
		},
	}
	if s.cfg.Cluster.HTTPAdvertise != "" {
		h.address = s.cfg.Cluster.HTTPAdvertise
	}
	go func() {
		if err := h.server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.WithError(err).Error("requests of other processes are not taken any more")
		}
	}()
	return h, nil
}

// stop lets the requests that others handed on end.
func (h *handover) stop(ctx context.Context) error {
	defer h.transport.CloseIdleConnections()
	if err := h.server.Shutdown(ctx); err != nil {
		return errors.Join(err, h.server.Close())
	}
	return nil
}

// forwarder hands on requests for a component to processes that run it.
func (s *Server) forwarder(component string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "https", "weft" // the transport finds the address
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			p.Out.Host = p.In.Host
			p.Out.Header.Set(headerClient, httpapi.ClientAddress(p.In.Context()))
		},
		Transport: &towards{s, component}, FlushInterval: -1, ErrorLog: stdlog.New(&lineLog{log: s.part("http")}, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { s.notForwarded(w, r, component, err) },
	}
}

// notForwarded answers a request that could not be handed on.
func (s *Server) notForwarded(w http.ResponseWriter, r *http.Request, component string, err error) {
	if r.Context().Err() == nil {
		s.part("http").WithError(err).WithFields(logrus.Fields{"component": component, "path": r.URL.Path}).Warn("a request could not be handed on")
	}
	e := merr.New(http.StatusServiceUnavailable, "M_UNKNOWN", "no process that runs the component %s answers just now; try again", component).
		With("retry_after_ms", int64(1000))
	body, err := e.MarshalJSON()
	if err != nil {
		s.part("http").WithError(err).Error("error response not written")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // the client may be gone
}

// towards carries requests to the processes that run a component.
type towards struct {
	s         *Server
	component string
}

var errNoProcess = errors.New("no process runs the component")

// RoundTrip asks one process after the other until one takes the connection. A request that arrived somewhere is not
// sent again: its client knows whether it may be.
func (t *towards) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close() //nolint:errcheck // it is the client's
	}
	// Requests with one access token go to one process: it knows the user already.
	key := req.Header.Get("Authorization")
	if key == "" || t.component == "federationapi" {
		key = rand.Text()
	}
	ctx, cluster := req.Context(), t.s.cluster
	patience := time.Now().Add(rpc.Patience)
	last := errNoProcess
	for {
		changed := cluster.Changed()
		if h := t.s.handover.Load(); h != nil {
			for _, n := range cluster.Ranked(t.component, key) {
				if n.HTTP == "" {
					continue
				}
				out := req.Clone(ctx)
				out.URL.Host = n.HTTP
				if req.Body != nil && req.Body != http.NoBody {
					out.Body = io.NopCloser(req.Body) // a connection that fails must not close it
				}
				resp, err := h.transport.RoundTrip(out)
				if err == nil || !errors.Is(err, errNotThere) {
					return resp, err
				}
				last = err
			}
		}
		if cluster.Self().Leaving {
			return nil, last // the others may all be stopping, too
		}
		retry := time.NewTimer(forwardRetry)
		select {
		case <-changed:
		case <-retry.C:
		case <-ctx.Done():
		}
		retry.Stop()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if time.Now().After(patience) {
			return nil, last
		}
	}
}

// errNotThere says that there is no connection to a process, so that nothing was sent to it.
var errNotThere = errors.New("the process cannot be reached")

func dialTo(config *tls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	d := &tls.Dialer{NetDialer: &net.Dialer{KeepAlive: 5 * time.Second}, Config: config}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, forwardDial)
		defer cancel()
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotThere, err)
		}
		return conn, nil
	}
}
