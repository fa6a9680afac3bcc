package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"weft/setup"
)

// healthcheckTimeout bounds the whole check.
const healthcheckTimeout = 10 * time.Second

func healthcheckCommand() *cobra.Command {
	var target string
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Ask the running server whether it is well (exit status 0 or 1)", Args: cobra.NoArgs,
		Long: "Ask the running server whether it is well: /health on the admin address where there is one,\n" +
			"otherwise /_matrix/client/versions on the first listener. It takes the same configuration as serve.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if target == "" {
				c, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				target = healthURL(c)
			}
			return checkHealth(cmd.Context(), target)
		},
	}
	addConfigFlags(cmd)
	cmd.Flags().StringVar(&target, "url", "", "URL to ask instead")
	return cmd
}

// healthURL finds out where the configured server can be asked.
func healthURL(c setup.Config) string {
	if c.AdminListen != "" {
		return "http://" + reachable(c.AdminListen) + "/health"
	}
	l := c.Listeners[0]
	scheme := "http"
	if l.TLS.Certificate != "" {
		scheme = "https"
	}
	return scheme + "://" + reachable(l.Address) + "/_matrix/client/versions"
}

// reachable turns an address that means every interface into loopback.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func checkHealth(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		// The certificate names the server, not the loopback address asked here.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // #nosec: nothing secret is sent
	}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing depends on it
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the server is not well: %s: %s", res.Status, body)
	}
	return nil
}
